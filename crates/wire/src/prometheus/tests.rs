//! Tests of what is read from pages of metrics; captured pages are read in `tests/captures.rs`.

use proptest::prelude::*;
use types::{
    quantity::{Blocks, Tokens},
    replica::LoadReport,
};

use super::{Adapters, Scrape, read};

#[test]
fn data_parallel_ranks_add_up_and_their_shares_are_averaged() {
    let page = "\
# HELP vllm:num_requests_running Number of requests.
vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 16.0
vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 4.0
vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 8.0
vllm:num_requests_waiting_by_reason{engine=\"0\",reason=\"capacity\"} 100.0
vllm:kv_cache_usage_perc{engine=\"0\"} 0.5
vllm:kv_cache_usage_perc{engine=\"1\"} 0.25
vllm:num_preemptions_total{engine=\"0\",model_name=\"m\"} 9.0
vllm:num_preemptions_created{engine=\"0\",model_name=\"m\"} 1.7e9
vllm:num_preemptions_total{engine=\"1\",model_name=\"m\"} 3.0
vllm:cache_config_info{block_size=\"32\",engine=\"0\",num_gpu_blocks=\"512\"} 1.0
vllm:cache_config_info{block_size=\"32\",engine=\"1\",num_gpu_blocks=\"512\"} 1.0
";
    assert_eq!(
        read(page.as_bytes()),
        Some(Scrape {
            load: LoadReport {
                running: 20,
                waiting: 8,
                kv_usage: 0.375,
                preemptions: Some(12),
                ..LoadReport::default()
            },
            block: Some(Tokens(32)),
            cache_blocks: Some(Blocks(1024)),
            ..Scrape::default()
        })
    );
}

#[test]
fn samples_that_cannot_be_true_are_left_out_and_counted() {
    for nonsense in ["1e308", "-1", "NaN", "+Inf", "-Inf", "4294967295", "1000001"] {
        let page = format!(
            "vllm:num_requests_running 3.0\nvllm:num_requests_waiting {nonsense}\n\
             vllm:kv_cache_usage_perc 0.5\n"
        );
        let scrape = read(page.as_bytes()).unwrap();
        let load = LoadReport { running: 3, kv_usage: 0.5, ..LoadReport::default() };
        assert_eq!((scrape.load, scrape.implausible), (load, 1), "{nonsense}");
    }
    let page = "vllm:num_requests_waiting 1000000\nvllm:cache_config_info{block_size=\"-16\",num_gpu_blocks=\"1e99\"} 1\n";
    let scrape = read(page.as_bytes()).unwrap();
    assert_eq!((scrape.load.waiting, scrape.implausible), (1_000_000, 2));
    assert_eq!((scrape.block, scrape.cache_blocks), (None, None));
    // Ranks that are made up add up to nothing that is believed.
    let ranks: String = (0..1_001)
        .map(|it| format!("vllm:num_requests_waiting{{engine=\"{it}\"}} 1000000\n"))
        .collect();
    assert_eq!(read(ranks.as_bytes()).unwrap().load.waiting, 0);
}

#[test]
fn the_newest_line_says_which_adapters_are_in_use() {
    let page = "\
vllm:num_requests_running{engine=\"0\"} 1.0
vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"sql,law\",waiting_lora_adapters=\"law,med\"} 1.7e9
vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"old\",waiting_lora_adapters=\"\"} 1.6e9
";
    let adapters = read(page.as_bytes()).unwrap().adapters.unwrap();
    let in_use = ["sql", "law", "med"].map(str::to_owned).to_vec();
    assert_eq!(adapters, Adapters { in_use, most: 4 });
    let none =
        "vllm:num_requests_running 1.0\nvllm:lora_requests_info{running_lora_adapters=\"a\"} 1.0\n";
    assert_eq!(read(none.as_bytes()).unwrap().adapters, None);
}

#[test]
fn tensor_parallel_ranks_do_not_add_up() {
    let page = "\
sglang:num_running_reqs{dp_rank=\"0\",tp_rank=\"0\"} 3.0
sglang:num_running_reqs{dp_rank=\"0\",tp_rank=\"1\"} 3.0
sglang:num_running_reqs{dp_rank=\"1\",tp_rank=\"2\"} 4.0
sglang:page_size{tp_rank=\"0\"} 64.0
sglang:max_total_num_tokens{tp_rank=\"0\"} 32768.0
";
    let scrape = read(page.as_bytes()).unwrap();
    assert_eq!(scrape.load.running, 7);
    assert_eq!((scrape.block, scrape.cache_blocks), (Some(Tokens(64)), Some(Blocks(512))));
}

#[test]
fn labels_may_hold_anything() {
    let page = r#"vllm:num_requests_running{model_name="a \"b\\\" } 9, engine=\"7\"",engine="0"} 2 1700000000
vllm:num_requests_running{model_name="c",engine="0"} 1"#;
    assert_eq!(read(page.as_bytes()).unwrap().load.running, 2);
}

#[test]
fn a_page_without_a_known_line_says_nothing() {
    for page in ["", "\n\n", "go_goroutines 8\n", "vllm:num_requests_running{engine=\"0\"} NaN\n"] {
        assert_eq!(read(page.as_bytes()), None, "{page}");
    }
    assert_eq!(read(b"llamacpp:requests_processing 4").unwrap().load.running, 4);
}

proptest! {
    #[test]
    fn no_page_makes_it_panic(
        lines in prop::collection::vec("(vllm:num_requests_running|vllm:cache_config_info|sglang:page_size)[{}=\",\\\\ 0-9.e+a-]{0,30}", 0..6),
    ) {
        let _ = read(lines.join("\n").as_bytes());
    }
}
