//! Names and bytes of expanded tensors, against those of the public scripts.

use std::collections::BTreeMap;

use firebox::{
    Cpu, Error, Loader, config::Expand, expand::ExpandError, model::CausalLm, source::TensorInfo,
};

use super::{config, expanded};
use crate::common::Golden;

const BASE: Golden = Golden("llama_bf16_untied");

fn tensors(expand: Option<usize>) -> BTreeMap<String, TensorInfo> {
    let base = config(&BASE.path(""), "none");
    let config = match expand {
        Some(blocks) => expanded(base, blocks),
        None => base,
    };
    let checkpoint = config.open().expect(BASE.0);
    let tensors = checkpoint.catalog().iter();
    tensors
        .map(|tensor| (tensor.name.to_string(), tensor.clone()))
        .collect()
}

/// What `scripts/block_expansion.py` of TencentARC/LLaMA-Pro does with `--original_layers 4 --layers 6`, run by hand: its split
/// is 2, so that 0 1 stay, 2 is the copy of 1, 2 3 become 3 4, and 5 is the copy of 3. In copies, tensors whose name has `o_proj` or
/// `down_proj` are zero.
#[test]
fn names_and_bytes_are_those_of_the_public_script() {
    let (old, new) = (tensors(None), tensors(Some(2)));
    let ends = [
        "input_layernorm.weight",
        "mlp.down_proj.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "post_attention_layernorm.weight",
        "self_attn.k_proj.weight",
        "self_attn.o_proj.weight",
        "self_attn.q_proj.weight",
        "self_attn.v_proj.weight",
    ];
    let mut names = Vec::new();
    for (layer, of) in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 3), (5, 3)] {
        for end in ends {
            let name = format!("model.layers.{layer}.{end}");
            let tensor = &new[&name];
            let origin = &old[&format!("model.layers.{of}.{end}")];
            assert_eq!(tensor.shape, origin.shape, "{name}");
            assert_eq!(tensor.dtype, origin.dtype, "{name}");
            let zero =
                [2, 5].contains(&layer) && (end.contains("o_proj") || end.contains("down_proj"));
            let same = tensor.file == origin.file && tensor.range == origin.range;
            assert_eq!(same, !zero, "{name}");
            names.push(name);
        }
    }
    for name in [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
    ] {
        assert_eq!(new[name], old[name]);
        names.push(name.to_owned());
    }
    names.sort();
    assert_eq!(new.into_keys().collect::<Vec<_>>(), names);
}

/// Rules and the plan go by the new names, and the plan says which layers are new.
#[test]
fn rules_and_plans_know_the_new_names() {
    let base = config(&BASE.path(""), "nf4").rule(
        "model.layers.5=mlx:bits=4,group=64"
            .parse()
            .expect("a rule"),
    );
    let loader = Loader::<Cpu>::new(expanded(base, 2)).expect(BASE.0);
    let plan = loader.plan::<CausalLm>().expect("a plan");
    assert_eq!(plan.new_blocks, [2, 5]);
    assert!(plan.to_string().contains("new blocks: 2, 5"), "{plan}");
    let quant = |name: &str| {
        let mut steps = plan.steps.iter();
        let step = steps.find(|step| step.slot.name == name).expect(name);
        step.quant().to_string()
    };
    assert!(quant("model.layers.4.mlp.up_proj.weight").starts_with("nf4"));
    assert!(quant("model.layers.5.mlp.up_proj.weight").starts_with("mlx"));
    assert!(
        plan.missing.is_empty() && plan.unexpected.is_empty(),
        "{plan}"
    );

    let dense = config(&BASE.path(""), "nf4").expand(Expand::blocks(2).dense());
    let loader = Loader::<Cpu>::new(dense).expect(BASE.0);
    let plan = loader.plan::<CausalLm>().expect("a plan");
    for step in &plan.steps {
        let new = ["model.layers.2.", "model.layers.5."].iter();
        let new = new.clone().any(|layer| step.slot.name.starts_with(layer));
        let old = step.slot.is_matrix() && step.slot.name.contains("layers") && !new;
        assert_eq!(
            step.quant().to_string().starts_with("nf4"),
            old,
            "{}",
            step.slot.name
        );
    }
}

#[test]
fn counts_and_checkpoints_that_do_not_go_are_refused() {
    let refused = |expand: &str| {
        let base = config(&BASE.path(""), "none").expand(expand.parse().expect(expand));
        match Loader::<Cpu>::new(base) {
            Err(Error::Expand(error)) => error,
            other => panic!("{expand}: {other:?}"),
        }
    };
    let error = refused("blocks=3");
    assert!(
        matches!(&error, ExpandError::Count { layers: 4, blocks: 3, divisors } if divisors == "1, 2, 4"),
        "{error}"
    );
    assert!(matches!(refused("blocks=8"), ExpandError::Count { .. }));
    assert!(matches!(refused("dense"), ExpandError::None { .. }));
    for wrong in [
        "blocks=0",
        "blocks",
        "blocks=2,blocks=2",
        "blocks=-1",
        "thick",
        "",
    ] {
        assert!(wrong.parse::<Expand>().is_err(), "{wrong}");
    }
    for text in ["blocks=8", "blocks=8,dense", "dense"] {
        assert_eq!(text.parse::<Expand>().expect(text).to_string(), text);
    }
}
