#![allow(clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, unused)]
use calibration::{minimize::minimize, requests, run::{run, Setting}};
use engine::{Profile, StepTime};
use types::quantity::Tokens;
use workload::trace::{Trace, mooncake};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let which = args[1].as_str();
    let rec = std::fs::read_to_string(format!("/tmp/cal/{which}.jsonl")).unwrap();
    let trace = std::fs::read_to_string("/tmp/cal/trace.jsonl").unwrap();
    let mut t = Trace::new("t".into()); t.block_tokens = 16;
    let trace = mooncake::read(&t, &trace).unwrap();
    let measured = requests::read(&rec).unwrap();
    let work = requests::workload(&measured, &trace, Tokens(16));
    let mut base = Profile::named("llama-3-8b-h100").unwrap();
    base.max_num_batched_tokens = Tokens(2048);
    base.max_model_len = Tokens(32768);
    base.steps_ahead = args.get(2).map_or(1, |x| x.parse().unwrap());
    let mut setting = Setting::default();
    // o a b c d e overlap api
    let mut x0: Vec<f64> = match which {
        "4090" => { base.kv_tokens = Tokens(41408); base.max_num_seqs = 256; vec![1.0,17.0,80.0,20.0,150.0,3.0,0.3, 3.0] }
        "pro8b" => { base.kv_tokens = Tokens(467_000); base.max_num_seqs = 128; vec![1.0,10.5,39.0,20.0,80.0,1.5,0.1, 3.0] }
        _ => { base.kv_tokens = Tokens(467_000); base.max_num_seqs = 128; setting.replicas = 2; setting.lockstep = true; vec![3.0,10.0,30.0,50.0,50.0,1.5,0.1, 3.0] }
    };
    let mk = |x: &[f64]| { let mut p = base.clone();
        p.step = StepTime { overhead_ms: x[0], weights_ms: x[1], token_us: x[2], sequence_us: x[3], context_ns: x[4], attention_ns: x[5], overlap: x[6] };
        p.api_overhead_ms = x[7]; p };
    let stat = |mut v: Vec<f64>| { v.sort_by(f64::total_cmp); let q=|p| report::stats::quantile(&v,p).unwrap(); (v.iter().sum::<f64>()/v.len() as f64, q(0.1), q(0.5), q(0.9), q(0.99)) };
    let mt: Vec<(f64,f64,f64)> = measured.iter().map(|m| (m.first_s-m.sent_s, (m.last_s-m.first_s)/(m.output.0-1) as f64, m.last_s-m.sent_s)).collect();
    let free: Vec<usize> = args.get(3).map_or("0,2,3,4,5".to_string(), |s| s.clone()).split(',').map(|s| s.parse().unwrap()).collect();
    let expand = |y: &[f64]| { let mut x = x0.clone(); for (k,i) in free.iter().enumerate() { x[*i] = if *i==6 { 1.0/(1.0+(-y[k]).exp()) } else { y[k].exp() } } x };
    for (i, a) in args.iter().skip(4).enumerate() { let (k,v)=a.split_once('=').unwrap(); x0[k.parse::<usize>().unwrap()] = v.parse().unwrap(); }
    let expand = |y: &[f64]| { let mut x = x0.clone(); for (k,i) in free.iter().enumerate() { x[*i] = if *i==6 { 1.0/(1.0+(-y[k]).exp()) } else { y[k].exp() } } x };
    let loss = |x: &[f64]| -> f64 {
        let Ok(r) = run(&mk(x), &work, &setting) else { return f64::INFINITY };
        let mut s = 0.0;
        for (a,m) in r.answers.iter().zip(&mt) { let Some(a)=a else { return f64::INFINITY };
            let l = |p:f64,q:f64| { let d=(p/q).ln().abs(); if d<0.1 { d*d } else { 0.2*d-0.01 } };
            s += l(a.ttft_s().max(1e-4), m.0.max(1e-4))*0.3 + l(a.tpot_s().unwrap(), m.1) + l(a.e2e_s(), m.2); }
        s / mt.len() as f64 };
    let y0: Vec<f64> = free.iter().map(|i| if *i==6 { (x0[6]/(1.0-x0[6])).ln() } else { x0[*i].ln() }).collect();
    let m = minimize(|y| loss(&expand(y)), &y0, 0.2, 600);
    let m = minimize(|y| loss(&expand(y)), &m.at, 0.1, 600);
    let x = expand(&m.at);
    println!("{which} loss {:.6} calls {} x {:?}", m.value, m.calls, x.iter().map(|v| (v*1000.0).round()/1000.0).collect::<Vec<_>>());
    let r = run(&mk(&x), &work, &setting).unwrap();
    let g = |f: &dyn Fn(&calibration::run::Answered)->f64| stat(r.answers.iter().map(|a| f(&a.unwrap())).collect());
    for (name, a, b) in [("ttft", g(&|a| a.ttft_s()), stat(mt.iter().map(|m| m.0).collect())), ("tpot", g(&|a| a.tpot_s().unwrap()), stat(mt.iter().map(|m| m.1).collect())), ("e2e", g(&|a| a.e2e_s()), stat(mt.iter().map(|m| m.2).collect()))] {
        println!("{name} sim mean {:.4} p10 {:.4} p50 {:.4} p90 {:.4} p99 {:.4}", a.0,a.1,a.2,a.3,a.4);
        println!("{name} real     {:.4}     {:.4}     {:.4}     {:.4}     {:.4}", b.0,b.1,b.2,b.3,b.4);
        println!("  err mean {:+.2}% p50 {:+.2}% p90 {:+.2}%", 100.0*(a.0/b.0-1.0), 100.0*(a.2/b.2-1.0), 100.0*(a.3/b.3-1.0));
    }
    let (mut pe, mut n) = (vec![], 0);
    for (a,m) in r.answers.iter().zip(&mt) { pe.push((a.unwrap().e2e_s()/m.2-1.0).abs()); n+=1; }
    println!("per-request e2e abs err {:?} preempt {}", stat(pe), r.preemptions);
    if let Ok(ts) = std::fs::read_to_string(format!("/tmp/cal/{which}_ts.csv")) { for (l, s) in ts.lines().skip(1).zip(&r.samples).step_by(std::env::var("STEP").map_or(8,|x|x.parse().unwrap())) { println!("{l}   | {} {} {:.1}", s.running, s.waiting, s.kv_usage*100.0); } }

    if std::env::var("BINS").is_ok() { for c in 0..15 { let i=c*20; let mut a=[0.0;6]; for j in i..i+20 { let s=r.answers[j].unwrap(); a[0]+=s.ttft_s();a[1]+=mt[j].0;a[2]+=s.tpot_s().unwrap();a[3]+=mt[j].1;a[4]+=s.e2e_s();a[5]+=mt[j].2;} println!("reqs {i}.. ttft {:.3}/{:.3} tpot {:.5}/{:.5} {:+.1}% e2e {:.2}/{:.2} {:+.1}%",a[0]/20.,a[1]/20.,a[2]/20.,a[3]/20.,100.*(a[2]/a[3]-1.),a[4]/20.,a[5]/20.,100.*(a[4]/a[5]-1.)); } }
}
