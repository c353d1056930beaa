//! Long prompts beside short ones: neither keeps the other out.

use policy::admission::AdmissionMode;
use report::{Ending, RequestRecord};

use crate::ran::{Ran, of_tenants, read, run, run_with};

/// A flood of short prompts that are in the cache but for their end, and few long ones that nobody has.
const SIZES: &str = "
name: sizes
fleet: { replicas: 2, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048 } }
policy: { strategy: least-latency }
workload:
  mix:
    - share: 40
      slo_class: short
      documents:
        documents: 4
        skew: 0.0
        document_tokens: { min: 2000, max: 2000 }
        question_tokens: { min: 50, max: 150 }
        answer_tokens: { min: 50, max: 150 }
    - share: 1
      slo_class: long
      independent: { prompt_tokens: { min: 14000, max: 18000 }, answer_tokens: { min: 50, max: 150 } }
load: { rates_per_s: [60], duration: 60s, warm_up: 20s }
slo:
  default: { ttft: 2s, tpot: 50ms }
  classes: { short: { ttft: 2s, tpot: 50ms }, long: { ttft: 4s, tpot: 50ms } }
";

/// Requests of a class that were let in, and those that were asked.
fn of(ran: &Ran, class: &str) -> (f64, f64) {
    let is_of = |it: &RequestRecord| it.slo_class.as_deref() == Some(class);
    let let_in = ran.count(|it| is_of(it) && it.ending != Ending::Rejected);
    (let_in, ran.count(is_of))
}

/// Sixty a second find room. Whoever asks for little always finds some before there is enough for a long prompt, of
/// which without a quota one in ten and one in twenty got in here.
#[test]
fn long_prompts_get_in_half_as_often_as_all_others_however_many_these_are() {
    let knee = run(SIZES, "", AdmissionMode::Knee, 60.0);
    for rate in [140.0, 200.0] {
        let ran = run(SIZES, "", AdmissionMode::Knee, rate);
        let ((short, shorts), (long, longs)) = (of(&ran, "short"), of(&ran, "long"));
        let all = (short + long) / (shorts + longs);
        assert!(0.4 * all <= long / longs, "{long} of {longs}, {short} of {shorts}: {rate}/s");
        assert!(0.97 * ran.let_in() <= ran.good(), "{} of {}", ran.good(), ran.let_in());
        assert!(knee.good() <= ran.good(), "{} at {rate}/s, {} at 60", ran.good(), knee.good());
    }
}

const SHORT: &str = "
name: short
fleet: { replicas: 4, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048 } }
policy: { strategy: least-latency }
workload:
  independent: { prompt_tokens: { min: 200, max: 1000 }, answer_tokens: { min: 50, max: 150 } }
load: { rates_per_s: [60], duration: 90s, warm_up: 20s }
slo: { ttft: 2s, tpot: 50ms }
ranks: { 1: { slo: { ttft: 30s, tpot: 200ms } } }
";

#[test]
fn c9_short_prompts_beside_a_tenant_with_very_long_ones_hardly_feel_them() {
    let short = read(SHORT, "");
    let lengths = ("min: 200, max: 1000", "min: 90000, max: 110000");
    let long = read(&SHORT.replace(lengths.0, lengths.1), "");
    let shorts = of_tenants(&short, &[60.0]);
    let p99 = |ran: &Ran| ran.ttft_ms(0.99, |it| it.tenant == Some(0));
    let alone = run_with(&short, AdmissionMode::Knee, shorts.clone());
    for longs_per_s in [0.1, 0.3, 1.0] {
        let mut both = shorts.clone();
        both.extend(of_tenants(&long, &[0.0, longs_per_s]));
        both.sort_by_key(|it| it.at);
        let beside = run_with(&short, AdmissionMode::Knee, both);
        let served = beside.good_of(1);
        assert!(0.0 < served, "a long prompt is served at {longs_per_s}/s");
        assert!(
            p99(&beside) <= 1.5 * p99(&alone),
            "{} ms beside {longs_per_s}/s, {} ms alone",
            p99(&beside),
            p99(&alone)
        );
        assert!(0.99 * alone.good_of(0) <= beside.good_of(0), "{}", beside.good_of(0));
    }
}
