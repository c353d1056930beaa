//! Lines of real traces, each byte for byte, as each format's reader must take them.

use std::time::Duration;

use super::*;

/// kvcache-ai/Mooncake, FAST25 conversation trace, Apache-2.0.
const MOONCAKE: &str = r#"{"timestamp": 0, "input_length": 2290, "output_length": 316, "hash_ids": [0, 42, 43, 44, 45]}
{"timestamp": 3000, "input_length": 915, "output_length": 355, "hash_ids": [0, 462]}"#;

/// vllm-project/aibrix, ShareGPT in 16-token blocks with made-up times, Apache-2.0.
const AIBRIX: &str = r#"{"timestamp":6011,"input_length":182,"output_length":8,"hash_ids":[0,1,2,3,4,5,6,7,8,9,10]}
{"timestamp":6917,"input_length":259,"output_length":40,"hash_ids":[11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26]}"#;

/// Drawn from the statistics of alibaba/ServeGen (deepseek-r1), Apache-2.0.
const SERVEGEN: &str = r#"{"timestamp":0,"input_length":450,"output_length":391,"tenant":54}
{"timestamp":0,"input_length":189,"output_length":533,"tenant":23}
{"timestamp":113,"input_length":2703,"output_length":386,"tenant":19}"#;

/// A demonstration of SWE-agent/SWE-agent as a recorder wrote it, MIT.
const SWE_AGENT: &str = r#"{"timestamp":25588,"input_length":1673,"output_length":55,"hash_ids":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63,64,65,66,67,68,69,70,71,72,73,74,75,76,77,78,79,80,81,82,83,84,85,86,87,88,89,90,91,92,93,94,95,96,97,98,99,100,101,102,103],"session_id":"swe-0","turn":1,"delay_ms":0,"type":"user"}
{"timestamp":31513,"input_length":1795,"output_length":84,"hash_ids":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63,64,65,66,67,68,69,70,71,72,73,74,75,76,77,78,79,80,81,82,83,84,85,86,87,88,89,90,91,92,93,94,95,96,97,98,99,100,101,102,103,104,105,106,107,108,109,110,111],"session_id":"swe-0","turn":2,"delay_ms":4744,"type":"user"}"#;

/// Azure/AzurePublicDataset, AzureLLMInferenceTrace_code.csv, CC-BY-4.0.
const AZURE: &str = "\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:04.0781490,110,27
";

fn read(text: &str, block_tokens: Option<u32>) -> Result<Recorded, BadLine> {
    Recorded::read(&Trace { block_tokens, ..Trace::new("t".to_owned()) }, text)
}

#[test]
fn real_lines_are_read_as_what_they_are() {
    let figures = |recorded: &Recorded| -> Vec<(u128, u32, usize)> {
        let ms = |at_s: f64| Duration::from_secs_f64(at_s).as_millis();
        recorded.rows.iter().map(|it| (ms(it.at_s), it.input.0, it.blocks.len())).collect()
    };
    assert_eq!(figures(&read(MOONCAKE, None).unwrap()), [(0, 2_290, 5), (3_000, 915, 2)]);
    assert_eq!(figures(&read(AIBRIX, Some(16)).unwrap()), [(0, 182, 11), (906, 259, 16)]);
    let error = read(AIBRIX, None).unwrap_err().to_string();
    assert!(error.contains("--block-tokens 16"), "{error}");
    let servegen = read(SERVEGEN, None).unwrap();
    assert_eq!(figures(&servegen), [(0, 450, 0), (0, 189, 0), (113, 2_703, 0)]);
    assert_eq!(servegen.rows[2].tenant, Some(19));
    assert_eq!(figures(&read(AZURE, None).unwrap()), [(0, 4_808, 0), (52, 3_180, 0), (98, 110, 0)]);
}

#[test]
fn a_real_agents_turns_belong_together() {
    let recorded = read(SWE_AGENT, Some(16)).unwrap();
    let told: Vec<_> = recorded.rows.iter().map(|it| (it.session, it.turn, it.input.0)).collect();
    assert_eq!(told, [(Some(0), 1, 1_673), (Some(0), 2, 1_795)]);
    assert_eq!(recorded.rows[1].think, Duration::from_millis(4_744));
    let shared = recorded.rows[0].blocks.iter().zip(&recorded.rows[1].blocks);
    assert!(shared.take_while(|(one, other)| one == other).count() > 50);
}
