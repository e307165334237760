//! Packed weights as the source of another quantization. What is expected is the weight of the same file unpacked as a
//! whole (the other tests compare that with the libraries), and packed from memory.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use firebox::{
    Cpu, Error, LoadConfig, Loader,
    config::{SaveConfig, VerifyConfig},
    model::CausalLm,
    pipeline::{Event, Finished, Flow},
    place::SaveError,
    plan::{Action, Plan, PlanError},
    quant::{
        QuantSpec,
        kernels::{arith::float::DType, format::Packed, packer::pack_whole},
    },
    report::Saved,
};
use tempfile::TempDir;

use super::{
    QUANTIZED, finished_of, load,
    packed::{PACKED, known},
    save,
};

/// Bytes of tiles: a row or what has to stay together, some rows, all.
const TILES: [u64; 3] = [1, 3000, 1 << 20];

/// What a plan of one packed weight gives when it is unpacked and packed some rows at a time: the values and the codes of
/// the whole weight. Would catch rows of a wrong place, a scale of another row, codes that are read from the middle of a
/// byte.
pub(super) fn assert_by_rows(what: &str, loader: &Loader<Cpu>, plan: &Plan, packed: &Packed) {
    let values = packed.dequantize();
    let bits = |values: &[f32]| {
        values
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<_>>()
    };
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let act = |action: Action, tile: u64| {
        let mut plan = plan.clone();
        plan.steps[0].action = action;
        finished_of(loader, &plan, 8 * tile).remove(0).1
    };
    for tile in TILES {
        let Finished::Dense(dense) = act(Action::Dense(DType::F32), tile) else {
            panic!("{what} stays packed");
        };
        let found: Vec<f32> = bytemuck::pod_collect_to_vec(dense.bytes());
        assert!(
            bits(&found) == bits(&values),
            "{what} has other values in tiles of {tile}"
        );
        for quant in ["nf4:nested", "fp8:scale=tensor", "mlx:bits=3,group=32"] {
            let spec: QuantSpec = quant.parse().expect("a spec");
            let method = spec.method().expect("a method");
            let Ok(packer) = method.packer(packed.shape, DType::F32) else {
                continue;
            };
            let expected = pack_whole(packer, &bytes);
            let Finished::Packed(found) = act(Action::Pack(spec.clone(), expected.format), tile)
            else {
                panic!("{what} is not packed");
            };
            assert!(
                found == expected,
                "{what} as {quant} has other codes in tiles of {tile}"
            );
        }
    }
}

/// Every file of a folder.
/// All files but the record of the save, which says what they were made from.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).expect("a folder").map(|file| {
        let file = file.expect("a file");
        let bytes = fs::read(file.path()).expect("a file");
        (file.file_name().into_string().expect("a name"), bytes)
    });
    let is_record = |name: &str| name == ".firebox-saved.json";
    files.filter(|(name, _)| !is_record(name)).collect()
}

fn assert_same(what: &str, found: &Path, expected: &Path) {
    let [found, expected] = [found, expected].map(files);
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{what}");
    for (name, bytes) in &found {
        assert!(*bytes == expected[name], "{what}: {name} has other bytes");
    }
}

fn spec(quant: &str) -> QuantSpec {
    quant.parse().expect("a spec")
}

/// One step and two, of every dialect that has a golden checkpoint: each file has the same bytes, also where tiles hold few
/// rows. Would catch a source in another type, an embedding that stays packed, a field of `config.json`.
#[test]
fn one_step_writes_what_two_steps_write() {
    for model in QUANTIZED {
        let packed = model.checkpoint();
        let dense = TempDir::new().expect("a folder");
        let config = load(packed.path()).dequantize(true).dtype(DType::F32);
        save(config, &SaveConfig::new(dense.path()));
        let all = [
            ("nf4", false),
            ("mlx:bits=4,group=64", false),
            ("fp8:e4m3,scale=block", false),
            ("hqq:bits=4,group=64,axis=0,unsolved", false),
            ("nf4:nested", true),
            ("auto:bits=5", false),
        ];
        // What makes its choices by reading rows is slow, and sees the same rows.
        let count = if model.name == "llama_fp8_block128" {
            6
        } else {
            3
        };
        for (quant, presinq) in all.into_iter().take(count) {
            let what = format!("{} to {quant}", model.name);
            let asked = |from: &Path| load(from).quant(spec(quant)).presinq(presinq);
            let [one, few, two] = [(); 3].map(|()| TempDir::new().expect("a folder"));
            save(asked(dense.path()), &SaveConfig::new(two.path()));
            let config = asked(packed.path()).requantize(true);
            save(config.clone(), &SaveConfig::new(one.path()));
            assert_same(&what, one.path(), two.path());
            save(
                config.in_flight_bytes_max(64 << 10),
                &SaveConfig::new(few.path()),
            );
            assert_same(
                &format!("{what}, few rows at a time"),
                few.path(),
                two.path(),
            );
        }
    }
}

/// The same of experts in every layout, by the architecture and by the files alone: one of a stack, a stack that lies the
/// other way round, tensors of their own that mlx-lm stacks. Would catch the matrix of another expert, columns for rows, a
/// stack that one road writes and the other does not.
#[test]
fn experts_are_a_source_in_every_layout() {
    type Write = fn(&Loader<Cpu>, &SaveConfig) -> Result<Saved, Error>;
    let by_files: Write = |loader, to| loader.save_tensors(&[], to);
    let by_model: Write = |loader, to| loader.save::<CausalLm>(to);
    let all = PACKED.into_iter().map(|(model, _)| (model, by_files));
    let mut count = 0;
    for (model, write) in all.chain(known().into_iter().map(|(model, _)| (model, by_model))) {
        let (from, dense) = (model.path(""), TempDir::new().expect("a folder"));
        let saved = |config: LoadConfig, to: &Path| {
            let loader = Loader::<Cpu>::new(config).expect(model.0);
            write(&loader, &SaveConfig::new(to))
        };
        let config = load(&from).dequantize(true).dtype(DType::F32);
        saved(config, dense.path()).expect(model.0);
        for quant in ["nf4", "mlx:bits=4,group=32"] {
            let what = format!("{} to {quant}", model.0);
            let [one, few, two] = [(); 3].map(|()| TempDir::new().expect("a folder"));
            let asked = |from: &Path| load(from).quant(spec(quant));
            let asked_again = asked(&from).requantize(true);
            // What a dialect cannot hold, or a method not pack, is refused on both roads.
            if let Err(expected) = saved(asked(dense.path()), two.path()) {
                let error = saved(asked_again, one.path()).expect_err("refused");
                assert_eq!(error.to_string(), expected.to_string(), "{what}");
                continue;
            }
            saved(asked_again.clone(), one.path()).expect(&what);
            assert_same(&what, one.path(), two.path());
            saved(asked_again.in_flight_bytes_max(4 << 10), few.path()).expect(&what);
            assert_same(
                &format!("{what}, few rows at a time"),
                few.path(),
                two.path(),
            );
            count += 1;
        }
    }
    assert!(count >= 2 * PACKED.len() - 1, "{count}");
}

/// Goes on after each weight. Would catch rows of a source that are read otherwise the second time, and a save that goes on
/// although it was begun without the flag.
#[test]
fn an_interrupted_save_goes_on() {
    let packed = QUANTIZED[5].checkpoint();
    let config = || {
        load(packed.path())
            .quant(spec("nf4:nested"))
            .requantize(true)
    };
    let [whole, cut] = [(); 2].map(|()| TempDir::new().expect("a folder"));
    save(config(), &SaveConfig::new(whole.path()));
    let placed = AtomicUsize::new(0);
    let cancel = move |event: &Event<'_>| match event {
        Event::Placed { .. } if placed.fetch_add(1, Ordering::Relaxed) == 6 => Flow::Cancel,
        _ => Flow::Continue,
    };
    let loader = Loader::<Cpu>::new(config().observer(cancel)).expect("a checkpoint");
    let error = loader.save::<CausalLm>(&SaveConfig::new(cut.path()));
    assert!(matches!(error, Err(Error::Interrupted { done: 7, .. })));

    let to = SaveConfig::new(cut.path()).resume(true);
    let other = load(packed.path()).dequantize(true);
    let other = Loader::<Cpu>::new(other).expect("a checkpoint");
    let error = other.save::<CausalLm>(&to).expect_err("another save");
    assert!(
        matches!(error, Error::Save(SaveError::Changed { .. })),
        "{error}"
    );
    assert_eq!(save(config(), &to).resumed, 7);
    assert_same("resumed", cut.path(), whole.path());
}

fn refused(config: LoadConfig) -> String {
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    let error = loader.plan::<CausalLm>().expect_err("refused");
    assert!(
        matches!(error, Error::Plan(PlanError::Packed { .. })),
        "{error}"
    );
    error.to_string()
}

/// Never silent: without the flag a packed weight is not packed again, and the error names the flag.
#[test]
fn packed_weights_are_no_source_unasked() {
    for model in QUANTIZED {
        let packed = model.checkpoint();
        let asked = load(packed.path()).quant(spec("mlx:bits=3,group=32"));
        assert!(
            refused(asked.clone()).contains("--requantize"),
            "{}",
            model.name
        );
        let asked = asked.requantize(true);
        let loader = Loader::<Cpu>::new(asked).expect("a checkpoint");
        let plan = loader.plan::<CausalLm>().expect("a plan");
        let text = plan.to_string();
        assert!(text.contains(" → mlx:bits=3,group=32"), "{text}");
        // As JSON too, and the plan can be carried out later without the flag.
        let json = serde_json::to_string(&plan.summary()).expect("words");
        assert!(json.contains(" → mlx:bits=3,group=32"), "{json}");
        let plan = Plan::from_json(&plan.to_json().expect("words")).expect("a plan");
        loader.load_plan::<CausalLm>(plan).expect("loads");
    }
}

/// The packed weights are compared with the values that they were made from. Would catch a source that is compared as it is
/// stored.
#[test]
fn requantized_weights_are_verified() {
    for model in QUANTIZED {
        let packed = model.checkpoint();
        let dense = TempDir::new().expect("a folder");
        let config = load(packed.path()).dequantize(true).dtype(DType::F32);
        save(config, &SaveConfig::new(dense.path()));
        let limits = VerifyConfig::default();
        let verify = |config: LoadConfig| {
            let loader = Loader::<Cpu>::new(config.quant(spec("nf4"))).expect("a checkpoint");
            let report = loader.verify::<CausalLm>(&limits).expect("a report");
            let rows = report.tensors.into_iter().map(|row| (row.name, row.stats));
            rows.collect::<BTreeMap<_, _>>()
        };
        let found = verify(load(packed.path()).requantize(true));
        assert!(found == verify(load(dense.path())), "{}", model.name);
        assert!(!found.is_empty());
        let asked = load(packed.path()).quant(spec("nf4")).requantize(true);
        let loader = Loader::<Cpu>::new(asked.verify(limits.clone())).expect("a checkpoint");
        let report = loader.load::<CausalLm>().expect("loads").report;
        assert!(
            report
                .verified
                .is_some_and(|report| report.tensors.len() == found.len())
        );
    }
}
