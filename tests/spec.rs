//! The words of `--quant`, `--rule` and `--skip`: other people's scripts depend on every one.

use firebox::{
    config::{Bytes, Pattern, Rule},
    model::{Role, Slot},
    quant::QuantSpec,
};

/// Would catch a word that is no longer understood, or that means something else than it did.
#[test]
fn every_documented_spec_is_read_and_printed_in_full() {
    for (written, printed) in [
        ("none", "none"),
        ("nf4", "nf4:block=64"),
        ("fp4", "fp4:block=64"),
        ("nf4:block=64,nested", "nf4:block=64,nested"),
        ("nf4:nested,block=4096", "nf4:block=4096,nested"),
        ("fp8", "fp8:e4m3,scale=tensor"),
        ("fp8:e5m2", "fp8:e5m2,scale=tensor"),
        ("fp8:e4m3,scale=tensor", "fp8:e4m3,scale=tensor"),
        ("fp8:e5m2,scale=channel", "fp8:e5m2,scale=channel"),
        ("fp8:e4m3,scale=block", "fp8:e4m3,scale=block"),
        ("fp8:e4m3,scale=128x128", "fp8:e4m3,scale=block"),
        ("fp8:e4m3,scale=64x32", "fp8:e4m3,scale=64x32"),
        ("fp8:scale=0.25", "fp8:e4m3,scale=0.25"),
        (
            "fp8:e4m3,scale=block,recipe=compressed-tensors",
            "fp8:e4m3,scale=block,recipe=compressed-tensors",
        ),
    ] {
        let spec: QuantSpec = written
            .parse()
            .unwrap_or_else(|error| panic!("{written}: {error}"));
        assert_eq!(spec.to_string(), printed, "{written}");
        let again: QuantSpec = printed
            .parse()
            .unwrap_or_else(|error| panic!("{printed}: {error}"));
        assert_eq!(
            again.to_string(),
            printed,
            "what is printed is read back as itself"
        );
    }
}

/// Would catch an error that does not say what was wrong, or a guess in place of an error.
#[test]
fn a_spec_that_cannot_be_is_refused_with_the_reason() {
    for (written, says) in [
        ("", &["unknown quantization"][..]),
        ("nf5", &["`nf5`", "nf4"]),
        ("NF4", &["`NF4`"]),
        ("none:block=64", &["none", "block=64"]),
        ("nf4:block=63", &["63", "32", "4096"]),
        ("nf4:block=0", &["0", "32"]),
        ("nf4:block=8192", &["8192", "4096"]),
        ("nf4:block=many", &["block", "many"]),
        ("nf4:scale=tensor", &["nf4", "scale=tensor"]),
        ("fp8:e3m4", &["fp8", "e3m4", "e4m3"]),
        ("fp8:scale=0", &["scale", "`0`", "channel"]),
        ("fp8:scale=-1", &["scale", "-1"]),
        ("fp8:scale=inf", &["scale", "inf"]),
        ("fp8:scale=0x128", &["scale", "0x128"]),
        ("fp8:recipe=mine", &["recipe", "mine", "fine-grained"]),
    ] {
        let error = written
            .parse::<QuantSpec>()
            .map(|spec| spec.to_string())
            .expect_err(written);
        for part in says {
            assert!(
                error.to_string().contains(part),
                "{written}: `{error}` lacks `{part}`"
            );
        }
    }
}

/// Would catch a pattern that matches by substring (`lm_head` in `lm_head_2`) or stops at dots.
#[test]
fn patterns_name_tensors_modules_globs_and_roles() {
    let slot = Slot::linear("model.layers.1.mlp.up_proj.weight", 8, 8);
    for (pattern, matches) in [
        ("model.layers.1.mlp.up_proj.weight", true),
        ("model.layers.1.mlp.up_proj", true),
        ("model.layers.1", true),
        ("model.layers.10", false),
        ("model.layers", true),
        ("up_proj", false),
        ("*.up_proj", true),
        ("*up_proj.weight", true),
        ("model.layers.{0,1}.*", true),
        ("model.layers.[2-9]", false),
        ("*", true),
        ("role:linear", true),
        ("role:head", false),
    ] {
        let parsed: Pattern = pattern
            .parse()
            .unwrap_or_else(|error| panic!("{pattern}: {error}"));
        assert_eq!(parsed.is_match(&slot), matches, "{pattern}");
    }
    let head = Slot::new("lm_head.weight", [8, 8], Role::Head);
    let pattern: Pattern = "lm_head".parse().expect("a pattern");
    assert!(pattern.is_match(&head));
    assert!(!pattern.is_match(&Slot::linear("lm_head_2.weight", 8, 8)));
}

#[test]
fn a_rule_that_cannot_be_is_refused_with_the_reason() {
    for (written, says) in [
        ("lm_head", "PATTERN=SPEC"),
        ("lm_head=nf9", "nf9"),
        ("=nf4", "empty"),
        ("a[=nf4", "a["),
        ("role:norm=nf4", "role:linear"),
    ] {
        let error = written.parse::<Rule>().map(|_| ()).expect_err(written);
        assert!(
            error.to_string().contains(says),
            "{written}: `{error}` lacks `{says}`"
        );
    }
}

#[test]
fn sizes_are_read_in_both_families_of_units() {
    for (written, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("1KB", 1_000),
        ("1KiB", 1_024),
        ("1.5GiB", 1_610_612_736),
        ("2GiB", 2_147_483_648),
        ("2 GB", 2_000_000_000),
        ("512mib", 536_870_912),
    ] {
        assert_eq!(written.parse(), Ok(Bytes(bytes)), "{written}");
    }
    for written in ["", "GiB", "2XB", "-1", "1e400GiB", "two"] {
        let error = written.parse::<Bytes>().expect_err(written);
        assert!(
            error.to_string().contains(&format!("`{written}`")),
            "{error}"
        );
    }
    assert_eq!(Bytes(1_610_612_736).to_string(), "1.50 GiB");
    assert_eq!(Bytes(17).to_string(), "17 B");
}
