//! The words of `--quant`, `--rule` and `--skip`: other people's scripts depend on every one.

use std::sync::Arc;

use firebox::{
    config::{Bytes, Pattern, Rule},
    model::{Role, Slot},
    quant::{
        Method, Packing, QuantSpec, SpecError,
        kernels::{
            arith::float::DType,
            format::{
                Affine, Along, Blocks, Format, FormatError, Fp8Kind, Gguf, Micro, Offset, Tile,
            },
            formats::fp8::Recipe,
            packer::Packer,
        },
    },
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
        (
            "fp8:recipe=fine-grained",
            "fp8:e4m3,scale=tensor,recipe=fine-grained",
        ),
        ("fp8:scale=block,ue8m0", "fp8:e4m3,scale=block,ue8m0"),
        ("fp8:ue8m0", "fp8:e4m3,scale=tensor,ue8m0"),
        (
            "fp8:ue8m0,recipe=fine-grained,scale=channel",
            "fp8:e4m3,scale=channel,ue8m0",
        ),
        ("mlx", "mlx:bits=4,group=64"),
        ("mlx:bits=4,group=64", "mlx:bits=4,group=64"),
        ("mlx:group=128", "mlx:bits=4,group=128"),
        ("mlx:group=32,bits=3", "mlx:bits=3,group=32"),
        ("hqq", "hqq:bits=4,group=64,axis=1"),
        ("hqq:bits=3,axis=0", "hqq:bits=3,group=64,axis=0"),
        (
            "hqq:bits=1.58,group=line",
            "hqq:bits=1.58,group=line,axis=1",
        ),
        ("hqq:bits=8,group=all", "hqq:bits=8,group=all,axis=1"),
        ("hqq:zero=whole", "hqq:bits=4,group=64,axis=1"),
        ("hqq:zero=free", "hqq:bits=4,group=64,axis=1,zero=free"),
        (
            "hqq:unsolved,zero=whole,bits=2",
            "hqq:bits=2,group=64,axis=1,zero=whole,unsolved",
        ),
        ("wna16", "wna16:bits=4,group=128"),
        (
            "wna16:asymmetric,group=32",
            "wna16:bits=4,group=32,asymmetric",
        ),
        ("wna16:bits=8,scale=channel", "wna16:bits=8,scale=channel"),
        ("wna16:bits=8,scale=tensor", "wna16:bits=8,scale=tensor"),
        ("mxfp4", "mxfp4"),
        ("mxfp8", "mxfp8"),
        ("nvfp4", "nvfp4"),
        ("nvfp4:global", "nvfp4:global"),
        ("q4_0", "q4_0"),
        ("q6_k", "q6_k"),
        (" iq4_nl ", "iq4_nl"),
        ("int8", "int8"),
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
        let json = serde_json::to_string(&spec).expect("JSON");
        assert_eq!(json, format!("\"{printed}\""));
        let again: QuantSpec = serde_json::from_str(&json).expect(&json);
        assert_eq!(again, spec, "{json}");
    }
}

/// Would catch a field of a format that JSON loses, and a custom method that reads back as something else.
#[test]
fn formats_are_read_back_from_json_and_custom_methods_are_refused_by_name() {
    let blocks = Blocks {
        block: 64,
        nested: true,
    };
    let affine = |along, form, params| {
        Format::Affine(Affine {
            bits: 3,
            group: 48,
            along,
            form,
            params,
        })
    };
    let mut formats = vec![
        Format::Nf4(blocks),
        Format::Fp4(blocks.plain()),
        affine(Along::Flat, Offset::Bias, DType::F32),
        affine(Along::Strided, Offset::Zero, DType::F16),
        affine(Along::Ordered, Offset::Zero, DType::Bf16),
        Format::Int8,
        Format::Micro(Micro::Mxfp4),
        Format::Micro(Micro::Mxfp8),
        Format::Micro(Micro::Nvfp4 { global: true }),
    ];
    formats.extend(Gguf::ALL.map(Format::Gguf));
    formats.extend(TILES.map(|tile| Format::Fp8(Fp8Kind::E5m2, tile)));
    for format in formats {
        let json = serde_json::to_string(&format).expect("JSON");
        let again: Format = serde_json::from_str(&json).expect(&json);
        assert_eq!(again, format, "{json}");
    }

    #[derive(Debug)]
    struct Mine;
    impl Method for Mine {
        fn format(&self, _: [usize; 2], _: DType) -> Result<Format, FormatError> {
            Ok(Format::Int8)
        }
        fn packer(&self, _: [usize; 2], _: DType) -> Result<Box<dyn Packer>, FormatError> {
            Err(FormatError::EmptyGroup)
        }
    }
    let spec = QuantSpec::Custom(Arc::new(Mine));
    let json = serde_json::to_string(&spec).expect("JSON");
    let error = serde_json::from_str::<QuantSpec>(&json).expect_err("no words");
    assert!(error.to_string().contains("`Mine`"), "{error}");
}

const TILES: [Tile; 7] = [
    Tile::Tensor,
    Tile::Row,
    Tile::Block {
        rows: 128,
        cols: 128,
    },
    Tile::Block { rows: 64, cols: 32 },
    Tile::Block { rows: 1, cols: 1 },
    Tile::Block { rows: 1, cols: 128 },
    Tile::Block {
        rows: usize::MAX,
        cols: 3,
    },
];

const FIXED: [f32; 6] = [
    1.0,
    0.05,
    1.0 / 3.0,
    f32::MIN_POSITIVE,
    f32::from_bits(1),
    f32::MAX,
];

/// Every kind, tile and recipe. Would catch a recipe, tile or digit of a scale that the printed words
/// lose, and two methods that print alike.
#[test]
fn every_fp8_prints_to_a_spec_that_reads_back_equal() {
    let mut printed = std::collections::BTreeSet::new();
    let mut count = 0;
    for kind in [Fp8Kind::E4m3, Fp8Kind::E5m2] {
        let tiled = TILES.iter().flat_map(|tile| {
            [
                Recipe::CompressedTensors,
                Recipe::FineGrained { ue8m0: false },
                Recipe::FineGrained { ue8m0: true },
            ]
            .map(|recipe| (*tile, recipe))
        });
        let fixed = FIXED.map(|scale| (Tile::Tensor, Recipe::Fixed(scale)));
        for (tile, recipe) in tiled.chain(fixed) {
            let method = Packing::fp8(kind, tile, recipe).expect("a method");
            let words = QuantSpec::Pack(method).to_string();
            let again: QuantSpec = words
                .parse()
                .unwrap_or_else(|error| panic!("{words}: {error}"));
            assert!(
                matches!(again, QuantSpec::Pack(again) if again == method),
                "{words} reads as {again:?}, and was {method:?}"
            );
            printed.insert(words);
            count += 1;
        }
    }
    assert_eq!(printed.len(), count);
}

/// A format of affine codes does not say who chose them: its words are not those of a method. Would catch
/// bits or a group that the printed words lose, and scales stored in another type than the weight's.
#[test]
fn every_mlx_prints_to_a_spec_that_reads_back_equal() {
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            let method = Packing::mlx(bits, group).expect("a method");
            let spec = QuantSpec::Pack(method);
            let words = spec.to_string();
            let again: QuantSpec = words
                .parse()
                .unwrap_or_else(|error| panic!("{words}: {error}"));
            assert!(matches!(again, QuantSpec::Pack(again) if again == method));
            for params in [DType::F32, DType::F16, DType::Bf16] {
                let form = Offset::Bias;
                let affine = Affine {
                    bits,
                    group,
                    along: Along::Flat,
                    form,
                    params,
                };
                let method = spec.method().expect("not none");
                assert_eq!(
                    method.format([3, 2 * group], params),
                    Ok(Format::Affine(affine))
                );
                let cols = group + 16;
                assert_eq!(
                    method.format([3, cols], params),
                    Err(FormatError::Columns { cols, group })
                );
            }
        }
    }
    assert_eq!(
        Packing::mlx(7, 64),
        Err(FormatError::Bits { found: 7, least: 2 })
    );
    assert_eq!(Packing::mlx(4, 16), Err(FormatError::Group { found: 16 }));
}

/// What no words say cannot be made either.
#[test]
fn an_fp8_that_cannot_be_is_refused() {
    let kind = Fp8Kind::E4m3;
    for tile in &TILES[1..] {
        assert_eq!(
            Packing::fp8(kind, *tile, Recipe::Fixed(0.5)),
            Err(FormatError::FixedTile { tile: *tile })
        );
    }
    for found in [0.0, -0.0, -1.0, f32::INFINITY] {
        assert_eq!(
            Packing::fp8(kind, Tile::Tensor, Recipe::Fixed(found)),
            Err(FormatError::Scale { found })
        );
    }
    let (rows, cols) = (0, 4);
    assert_eq!(
        Packing::fp8(kind, Tile::Block { rows, cols }, Recipe::CompressedTensors),
        Err(FormatError::Tile { rows, cols })
    );
}

/// A report prints formats, a command line takes specs. Would catch a word that only one of them knows.
#[test]
fn a_format_prints_as_the_spec_that_asks_for_it() {
    let blocks = |block, nested| Blocks { block, nested };
    let mut formats = vec![];
    for block in [32, 64, 128, 256, 512, 1024, 2048, 4096] {
        for nested in [false, true] {
            formats.push(Format::Nf4(blocks(block, nested)));
            formats.push(Format::Fp4(blocks(block, nested)));
        }
    }
    for kind in [Fp8Kind::E4m3, Fp8Kind::E5m2] {
        formats.extend(TILES.map(|tile| Format::Fp8(kind, tile)));
    }
    formats.push(Format::Int8);
    for format in formats {
        let words = format.to_string();
        let spec: QuantSpec = words
            .parse()
            .unwrap_or_else(|error| panic!("{words}: {error}"));
        let method = spec.method().expect("not none");
        assert_eq!(method.format([256, 256], DType::F32), Ok(format), "{words}");
        assert_eq!(spec.to_string(), words);
    }
}

/// Would catch an option that is silently overruled by a later one.
#[test]
fn options_that_repeat_or_contradict_each_other_are_refused_by_name() {
    for (options, first, second) in [
        ("nf4:block=64,block=128", "block=64", "block=128"),
        ("fp4:block=64,nested,block=64", "block=64", "block=64"),
        ("nf4:nested,nested", "nested", "nested"),
        ("fp8:e4m3,e5m2", "e4m3", "e5m2"),
        ("fp8:e4m3,scale=block,e4m3", "e4m3", "e4m3"),
        (
            "fp8:scale=tensor,scale=block",
            "scale=tensor",
            "scale=block",
        ),
        ("fp8:scale=0.05,scale=64x32", "scale=0.05", "scale=64x32"),
        (
            "fp8:scale=channel,scale=0.05",
            "scale=channel",
            "scale=0.05",
        ),
        (
            "fp8:recipe=fine-grained,recipe=compressed-tensors",
            "recipe=fine-grained",
            "recipe=compressed-tensors",
        ),
        ("fp8:ue8m0,ue8m0", "ue8m0", "ue8m0"),
        ("mlx:bits=4,bits=4", "bits=4", "bits=4"),
        ("mlx:group=32,bits=3,group=64", "group=32", "group=64"),
    ] {
        let error = options.parse::<QuantSpec>().map(|_| ());
        let expected = SpecError::Repeated {
            spec: options.to_owned(),
            first: first.to_owned(),
            second: second.to_owned(),
        };
        assert_eq!(error, Err(expected));
    }
    for (options, first, second) in [
        (
            "fp8:scale=0.05,recipe=fine-grained",
            "scale=0.05",
            "recipe=fine-grained",
        ),
        (
            "fp8:recipe=compressed-tensors,scale=0.05",
            "scale=0.05",
            "recipe=compressed-tensors",
        ),
        ("fp8:ue8m0,scale=0.05", "scale=0.05", "ue8m0"),
        (
            "fp8:ue8m0,scale=block,recipe=compressed-tensors",
            "recipe=compressed-tensors",
            "ue8m0",
        ),
    ] {
        let error = options.parse::<QuantSpec>().map(|_| ());
        let expected = SpecError::Contradiction {
            spec: options.to_owned(),
            first: first.to_owned(),
            second: second.to_owned(),
        };
        assert_eq!(error, Err(expected));
    }
}

/// Would catch an error that does not say what was wrong, or a guess in place of an error.
#[test]
fn a_spec_that_cannot_be_is_refused_with_the_reason() {
    for (written, says) in [
        ("", &["unknown quantization"][..]),
        ("nf5", &["`nf5`", "nf4", "mlx", "int8"]),
        ("affine:bits=4,group=64", &["unknown quantization", "mlx"]),
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
        ("mlx:bits=7", &["mlx:bits=7", "7 bits", "2 to 6, or 8"]),
        ("mlx:group=16", &["16", "32, 64 or 128"]),
        ("mlx:group=all", &["group", "`all`", "32, 64 or 128"]),
        ("mlx:bits=-4", &["bits", "`-4`", "2, 3, 4, 5, 6 or 8"]),
        ("mlx:block=64", &["mlx", "`block=64`", "group=N"]),
        ("mlx:nested", &["mlx", "`nested`"]),
        ("int8:group=64", &["int8", "`group=64`", "no options"]),
        ("fp8:e4m3,e5m2", &["`e4m3`", "`e5m2`", "fp8:e4m3,e5m2"]),
        (
            "fp8:scale=0.05,ue8m0",
            &["`scale=0.05`", "`ue8m0`", "contradict"],
        ),
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
        assert_eq!(parsed.is_match(&slot.name, slot.role), matches, "{pattern}");
    }
    let head = Slot::new("lm_head.weight", [8, 8], Role::Head);
    let pattern: Pattern = "lm_head".parse().expect("a pattern");
    assert!(pattern.is_match(&head.name, head.role));
    assert!(!pattern.is_match("lm_head_2.weight", Role::Linear));
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
        ("1.5TB", 1_500_000_000_000),
        ("2TiB", 2_199_023_255_552),
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
    assert_eq!(Bytes(2_199_023_255_552).to_string(), "2.00 TiB");
    assert_eq!(Bytes(17).to_string(), "17 B");
}

/// A megabyte of name, and 120,000 wildcards. Catches a pattern whose compilation ends the process.
#[test]
fn long_names_are_matched_and_long_patterns_refused() {
    for name in ["a".repeat(1_000_000), "é[".repeat(300_000)] {
        let rule = Rule::tensor(&name, QuantSpec::None);
        assert!(rule.pattern.is_match(&name, Role::Linear));
        assert!(!rule.pattern.is_match(&name[2..], Role::Linear));
    }
    let error = "*".repeat(120_000).parse::<Pattern>().unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("120000") && text.contains("4096"),
        "{}",
        &text[120_000..]
    );
}
