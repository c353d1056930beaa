//! What a file of stages may say, and what it is told when it says something else.

use super::*;

const SECONDS: &str = "model,tp,workload,stage,system_prompt_len,question_len,output_len,\
    num_sys_prompts,users_per_prompt,rate_req,duration,max_num_seqs,n_ok,n_fail,\
    ttft_mean,ttft_median,ttft_p90,tpot_mean,e2e_mean\n";

const ROW: &str = "org/Llama-2-7b-hf,1,codegen,0,100,466,247,11,4,5,600,128,3000,0,\
    0.025,0.024,0.028,0.0072,1.796\n";

const MILLIS: &str = "model,hardware,tp,workload,stage,real_ttft_mean,real_ttft_p90,real_itl_mean,\
    real_e2e_mean\n";

fn told(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

#[test]
fn both_kinds_of_file_say_the_same() {
    let millis = format!("{MILLIS}org/Llama-2-7b-hf,H100,1,codegen,0,25,28,7.2,1796\n");
    let one = read(&format!("{SECONDS}{ROW}")).unwrap().stages.remove(0);
    let other = read(&millis).unwrap().stages.remove(0);
    assert_eq!((one.shape.prompt, one.shape.rate_per_s), (Tokens(566), 5.0));
    assert_eq!(one.shape, other.shape);
    let of = |it: &Stage| [it.measured.ttft.mean, it.measured.tpot.mean, it.measured.e2e.mean];
    for (one, other) in of(&one).into_iter().zip(of(&other)) {
        assert!((one.unwrap() / other.unwrap() - 1.0).abs() < 1e-9);
    }
    assert_eq!(one.limits.max_num_seqs, Some(128));
}

#[test]
fn what_no_load_brings_about_is_left_out_and_counted() {
    let average = "org/Llama-2-7b-hf,H100,1,codegen,-1,25,28,7.2,1796\n";
    let unknown = "org/Llama-2-7b-hf,H100,1,poetry,0,25,28,7.2,1796\n";
    let known = "org/Llama-2-7b-hf,H100,1,general,1,25,28,7.2,1796\n";
    let file = read(&format!("{MILLIS}{average}{unknown}{known}")).unwrap();
    assert_eq!((file.averages, file.unknown.as_slice()), (1, ["poetry".to_owned()].as_slice()));
    assert_eq!(file.stages[0].shape.rate_per_s.to_bits(), 20.0_f64.to_bits());
}

#[test]
fn a_client_that_counts_two_chunks_for_a_token_is_understood() {
    // 246 gaps of 7.2 ms, of which each was seen as two of 3.6 ms.
    let halved = ROW.replace("0.0072", "0.0036");
    let stage = read(&format!("{SECONDS}{halved}")).unwrap().stages.remove(0);
    assert!((stage.measured.tpot.mean.unwrap() - 0.0072).abs() < 1e-9);
    assert_eq!(stage.shape.output, Tokens(247));
}

#[test]
fn failures_and_long_waits_are_overload() {
    let overloaded = |row: &str| {
        let stage = read(&format!("{SECONDS}{row}")).unwrap().stages.remove(0);
        stage.measured.overloaded()
    };
    assert!(!overloaded(ROW));
    assert!(overloaded(&ROW.replace("3000,0,", "3000,300,")));
    assert!(overloaded(&ROW.replace("0.024,0.028", "2.4,2.8")));
}

#[test]
fn a_row_that_makes_no_sense_is_named_with_its_line() {
    for (from, to, parts) in [
        ("0.025,", ",", ["line 3", "ttft_mean"]),
        ("0.025,", "soon,", ["line 3", "soon"]),
        ("0.025,", "-1,", ["line 3", "ttft_mean"]),
        ("0.025,", "inf,", ["line 3", "ttft_mean"]),
        ("0.024,0.028", "0.028,0.024", ["line 3", "descend"]),
        ("org/Llama-2-7b-hf", "", ["line 3", "model"]),
        (",1.796", ",1.796,7", ["line 3", "fields"]),
    ] {
        let told = told(&format!("{SECONDS}{ROW}{}", ROW.replacen(from, to, 1)));
        assert!(parts.iter().all(|it| told.contains(it)), "{parts:?} is not in: {told}");
    }
    let unshaped = told(
        &format!("{MILLIS}m,H100,1,poetry,0,25,28,7.2,1796\n")
            .replace("workload,stage", "workload,rate_req")
            .replace("poetry,0", "poetry,5"),
    );
    assert!(unshaped.contains("system_prompt_len"), "{unshaped}");
}

#[test]
fn a_file_without_stages_is_no_file_of_stages() {
    for text in ["", SECONDS] {
        assert!(told(text).contains("no stage"), "{}", told(text));
    }
    assert!(told("a,b\n1,2\n").contains("workload"));
}
