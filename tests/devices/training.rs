//! Adapters on a model that is spread.

use burn::tensor::Tensor;
use burn_optim::{AdamWConfig, GradientsParams};
use firebox::{
    LoadConfig, Loaded, StreamFrom,
    adapter::LoraConfig,
    model::{CausalLm, Documents, LossConfig},
};

use crate::{
    common::Golden,
    formats::{bits, load},
    linear,
};

fn loss(model: &CausalLm, recompute: bool) -> Tensor<1> {
    let ids: Vec<u32> = (0..24).map(|nth| (nth * 37 + 5) % 300).collect();
    let labels: Vec<Option<u32>> = ids
        .iter()
        .skip(1)
        .map(|id| Some(*id))
        .chain([None])
        .collect();
    let documents = Documents::whole([2, 12]);
    let config = LossConfig {
        recompute,
        ..LossConfig::new(documents)
    };
    model.loss(&ids, &labels, &config).expect("a loss")
}

/// Losses before and after steps of AdamW, and the logits after them.
fn trained(config: LoadConfig, recompute: bool) -> (Vec<u32>, Vec<u32>) {
    let Loaded { mut model, .. } = load(config.adapter(LoraConfig::new(4, 8.0)));
    let mut optimizer = AdamWConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..3 {
        let loss = loss(&model, recompute);
        losses.extend(bits(loss.clone().without_autodiff()));
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-2, model, gradients);
    }
    let last = bits(loss(&model, recompute).without_autodiff());
    (losses, last)
}

/// Would catch factors without a gradient, a loss that misses the last norm, and a device that a unit has no factors on.
#[test]
fn steps_of_spread_models_are_those_of_whole_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, quant, recompute) in [
        ("llama_bf16_untied", "nf4", false),
        ("llama_f16_tied_bias", "none", true),
        ("gemma4_ple_bf16", "none", false),
        ("mixtral_bf16", "nf4", true),
    ] {
        let golden = Golden(name);
        let expected = trained(linear(golden, quant), recompute);
        assert_ne!(expected.0[0], expected.1[0], "{name}: nothing was trained");
        let spread = trained(linear(golden, quant).devices([0, 1, 2]), recompute);
        assert!(spread == expected, "{name}, {quant}");
        let map = "*=0,*.layers.1=cpu,*.layers.0.self_attn=disk"
            .parse()
            .expect("a map");
        let elsewhere = linear(golden, quant)
            .stream_from(StreamFrom::Disk(folder.path().into()))
            .device_map(map);
        assert!(
            trained(elsewhere, recompute) == expected,
            "{name}, {quant}, elsewhere"
        );
    }
}
