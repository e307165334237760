//! Streamed experts: the same answers as with every expert on the device, while only some of them are.

#![cfg(feature = "cpu")]

mod common;
#[path = "common/formats.rs"]
mod formats;

use common::{Golden, ids};
use firebox::{
    Cpu, Loaded, Loader, Strategy, StreamFrom,
    config::Budget,
    model::{CausalLm, Role},
    plan::Step,
};
use formats::{bits, config, load};
use tempfile::TempDir;

/// A model of experts, streamed, whose device has room for a part of them: the share, from 0 to 1.
fn experts(golden: Golden, quant: &str, keep: &StreamFrom, share: f64) -> (Loaded<CausalLm>, u64) {
    let config = config(golden, quant)
        .strategy(Strategy::Streaming)
        .stream_from(keep.clone());
    let loader = Loader::<Cpu>::new(config.clone()).expect("a checkpoint");
    let plan = loader.plan::<CausalLm>().expect("a plan");
    let bytes = |of: &dyn Fn(&&Step) -> bool| -> Vec<u64> {
        let steps = plan.steps.iter().filter(of);
        steps.map(Step::bytes_finished).collect()
    };
    let is_expert = |step: &&Step| step.slot.role == Role::Expert;
    let experts: u64 = bytes(&is_expert).iter().sum();
    let resident: u64 = bytes(&|step| !step.slot.is_matrix()).iter().sum();
    let others = bytes(&|step| step.slot.is_matrix() && !is_expert(step));
    let ring = 3 * others.iter().max().expect("a matrix");
    let room = (share * experts as f64) as u64;
    // A tenth is left to activations.
    let budget = (resident + ring + room) / 9 * 10 + 20;
    (load(config.device_budget(Budget::Bytes(budget))), room)
}

/// Would catch an expert taken for another one, one that stays beyond the budget, one that is fetched although it is
/// there, and a model whose answers depend on the room.
#[test]
fn streamed_experts_answer_as_full_ones_do() {
    let cases = [
        ("qwen2_moe_bf16", "none"),
        ("qwen2_moe_bf16", "nf4"),
        ("gpt_oss_bf16", "mlx:bits=4,group=32"),
    ];
    for (name, quant) in cases {
        let golden = Golden(name);
        let tokens = ids(&golden.ids("input_ids"));
        let full = load(config(golden, quant).strategy(Strategy::Full)).model;
        let expected = bits(full.forward(tokens.clone()));
        let folder = TempDir::new().expect("a folder");
        for keep in [StreamFrom::Host, StreamFrom::Disk(folder.path().into())] {
            for share in [0.0, 0.4, 1.1] {
                let (Loaded { model, .. }, room) = experts(golden, quant, &keep, share);
                let passes = [(); 2].map(|()| {
                    let found = bits(model.forward(tokens.clone()));
                    assert!(found == expected, "{name}, {quant}, {share}");
                    model.stream_stats().expect("it streams")
                });
                let [first, second] = passes;
                let what = format!("{name}, {quant}, {share}: {second}");
                assert!(second.experts_bytes_peak <= room + 20, "{what}");
                let fetched = second.experts_fetched - first.experts_fetched;
                match share {
                    0.0 => assert_eq!(second.hit_rate(), Some(0.0), "{what}"),
                    0.4 => assert!(
                        fetched > 0 && second.experts_bytes_peak > room / 2,
                        "{what}"
                    ),
                    _ => assert_eq!((fetched, first.experts_found), (0, 0), "{what}"),
                }
            }
        }
    }
}

/// One layer of six experts, of which a token goes through two: six matrices. Would catch experts that are fetched and
/// not multiplied, and the order of the other weights disturbed by them.
#[test]
fn a_token_fetches_its_own_experts() {
    let golden = Golden("qwen2_moe_bf16");
    let (Loaded { model, report, .. }, _) = experts(golden, "nf4", &StreamFrom::Host, 1.1);
    assert!(!report.to_string().contains("streamed:"), "{report}");
    let stats = || model.stream_stats().expect("it streams");
    for (token, fetched) in [(7, 6), (7, 6)] {
        model.forward(ids(&[vec![token]]));
        assert_eq!(stats().experts_fetched, fetched);
    }
    assert_eq!(stats().hit_rate(), Some(0.5));
    assert_eq!(report.stream_stats(), Some(stats()));
    let said = report.to_string();
    assert!(
        said.contains("6 found and 6 fetched (50.0 % found)"),
        "{said}"
    );
    let missed = stats().missed;
    // Other tokens, other experts: the same order of all other weights.
    for token in 8..40 {
        model.forward(ids(&[vec![token]]));
    }
    assert!(stats().experts_fetched > 6);
    assert_eq!(stats().missed, missed);
}
