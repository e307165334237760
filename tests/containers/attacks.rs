//! Pickles that lie, or that would run something: each is refused by an error that names the global or the instruction.

use firebox::{Error, container::ContainerError, source::PickleError};

use super::file::{FILE, Pickled, ZipFile, legacy, opened, values_of};

/// Refused as a zip archive and as an older file, with the same words.
#[track_caller]
fn refused(pickle: &Pickled, words: &[&str]) -> Vec<Error> {
    let files = [ZipFile::of(pickle).bytes(), legacy(pickle)];
    let refused = files.iter().map(|file| {
        let error = opened(file).expect_err("was read");
        let text = error.to_string();
        for word in words.iter().chain([&FILE]) {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
        error
    });
    refused.collect()
}

#[test]
fn right_files_are_read() {
    for file in [
        ZipFile::of(&Pickled::right()).bytes(),
        legacy(&Pickled::right()),
    ] {
        let checkpoint = opened(&file).expect("a right file");
        let tensor = checkpoint.catalog().get("weight").expect("a tensor");
        assert_eq!(tensor.shape, [2, 3]);
        let expected: Vec<u8> = (0..6u8)
            .flat_map(|value| f32::from(value).to_le_bytes())
            .collect();
        assert_eq!(values_of(&checkpoint, "weight"), expected);
    }
}

/// Whether it would be called makes no difference: what a name means is only known when it is imported.
#[test]
fn names_of_other_things_are_refused() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("__builtin__", "apply"),
        ("subprocess", "Popen"),
        ("runpy", "run_path"),
        ("pickle", "loads"),
        ("_codecs", "encode"),
        ("importlib", "import_module"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "__builtins__"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("torch._dynamo.guards", "GuardBuilder.get"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("collections.OrderedDict", ""),
        ("torch.nn.modules.linear", "Linear"),
    ] {
        let global = format!("{module}.{name}");
        let called = Pickled::new().global(module, name).text("id").op(b"\x85R.");
        let unused = Pickled::dictionary(|pickle| {
            let pickle = pickle.global(module, name).op("0");
            pickle.tensor([0, 6], 0, &[2, 3], &[3, 1])
        });
        let on_the_stack = Pickled::new().text(module).text(name).op(b"\x93.");
        let remembered = Pickled::new()
            .text(name)
            .op("q\x01")
            .text(module)
            .op("h\x01");
        let remembered = remembered.op(b"\x93)R.");
        let as_a_value = Pickled::dictionary(|pickle| pickle.global(module, name));
        for pickle in [called, unused, on_the_stack, remembered, as_a_value] {
            for error in refused(&pickle, &[&global, "was not run", "safetensors"]) {
                let Error::Container(ContainerError::Pickle(error)) = &error else {
                    panic!("{error:?}");
                };
                let is_global = matches!(&**error, PickleError::Global { global: found, .. } if *found == global);
                assert!(is_global, "{error:?}");
            }
        }
    }
}

#[test]
fn instructions_that_no_file_has_are_refused() {
    for (code, name) in [
        (&b"ios\nsystem\n"[..], "INST"),
        (b"\x82\x01", "EXT1"),
        (b"\x83\x01\x00", "EXT2"),
        (b"\x84\x01\x00\x00\x00", "EXT4"),
        (b"\x97", "NEXT_BUFFER"),
        (b"\x98", "READONLY_BUFFER"),
        (b"I01\n", "INT"),
        (b"L1L\n", "LONG"),
        (b"F1.0\n", "FLOAT"),
        (b"S'os'\n", "STRING"),
        (b"Vos\n", "UNICODE"),
        (b"P0\n", "PERSID"),
        (b"g0\n", "GET"),
        (b"p0\n", "PUT"),
        (b"2", "DUP"),
        (b"o", "OBJ"),
        (b"\x81", "NEWOBJ"),
        (b"\x92", "NEWOBJ_EX"),
        (b"\xff", "0xff"),
    ] {
        let before = Pickled::new().global("collections", "OrderedDict").op(")");
        refused(&before.op(code).op("."), &[name, "at byte"]);
    }
}

/// Stacks, marks and memos that are not what an instruction needs.
#[test]
fn tricks_with_the_stack_are_refused() {
    let new = Pickled::new;
    let cases: &[(Pickled, &[&str])] = &[
        (new().op("."), &["STOP", "more entries"]),
        (new().op("R."), &["REDUCE"]),
        (new().op(")R."), &["REDUCE"]),
        (new().op("0."), &["POP", "has 0"]),
        (new().op("1."), &["POP_MARK", "a mark"]),
        (new().op("t."), &["TUPLE", "a mark"]),
        (new().op("}N(0."), &["POP", "has 0"]),
        (new().op("}(."), &["STOP", "has 0"]),
        (new().op("}}."), &["STOP", "1 entries"]),
        (new().op("h\x05."), &["BINGET", "no entry 5"]),
        (
            new().op(b"j\x05\x00\x00\x00."),
            &["LONG_BINGET", "no entry 5"],
        ),
        (new().op("q\x05."), &["BINPUT"]),
        (new().op("}Na."), &["APPEND", "a list", "a dictionary"]),
        (new().op("]NNs."), &["SETITEM", "a dictionary", "a list"]),
        (new().op("}(Nu."), &["SETITEMS", "in pairs", "1 entries"]),
        (new().op("](NNNd."), &["DICT", "in pairs", "3 entries"]),
        (new().op("NQ."), &["None for a tuple"]),
        (new().op(")Q."), &["storage", "()"]),
        (new().op("NN\u{93}."), &["byte"]),
        (new().op("]}b."), &["BUILD", "an OrderedDict", "a list"]),
        (new().op(b"]\x90."), &["ADDITEMS", "a mark"]),
        (new().op(b"](\x90."), &["ADDITEMS", "a set"]),
        (
            new().op(b"NN\x93."),
            &["STACK_GLOBAL", "a module and a name", "None"],
        ),
        (new().op("N)R."), &["REDUCE", "a known function", "None"]),
        (
            new().global("torch", "FloatStorage").op(")R."),
            &["FloatStorage", "no function"],
        ),
        (
            new().global("torch", "float32").op(")R."),
            &["float32", "no function"],
        ),
        (
            new().global("torch", "Size").op("NR."),
            &["REDUCE", "a tuple", "None"],
        ),
        (
            new().global("torch", "Size").op(")R."),
            &["torch.Size", "0 arguments"],
        ),
        (
            new()
                .global("collections", "OrderedDict")
                .op(b"](N\x85e\x85R."),
            &["OrderedDict", "a key and a value"],
        ),
        (
            new()
                .global("torch._utils", "_rebuild_parameter")
                .op(b"N\x85R."),
            &["_rebuild_parameter", "None for a tensor"],
        ),
        (Pickled(b"\x80\x06}.".to_vec()), &["PROTO", "protocol 6"]),
        (new().op(b"X\x02\x00\x00\x00\xff\xfe."), &["UTF-8"]),
    ];
    for (pickle, words) in cases {
        refused(pickle, words);
    }
}

/// Names of storages and views that do not agree with the file.
#[test]
fn tensors_that_lie_are_refused() {
    let tensor = |[key, count]: [i64; 2], offset, shape: &[i64], strides: &[i64]| {
        Pickled::dictionary(|pickle| pickle.tensor([key, count], offset, shape, strides))
    };
    let max = i64::MAX;
    let cases: &[(Pickled, &[&str])] = &[
        (
            tensor([0, 6], 1, &[2, 3], &[3, 1]),
            &["lead out of the storage \"0\" of 6 values"],
        ),
        (tensor([0, 6], 0, &[3, 3], &[3, 1]), &["lead out"]),
        (tensor([0, 6], 0, &[2, 3], &[4, 1]), &["lead out"]),
        (tensor([0, 6], 7, &[0], &[1]), &["lead out"]),
        (tensor([0, 6], max, &[2], &[1]), &["lead out"]),
        (
            tensor([0, 6], 0, &[max, max, max], &[max, max, max]),
            &["lead out"],
        ),
        (tensor([0, 6], 0, &[max, max, 4], &[0, 0, 1]), &["lead out"]),
        (
            tensor([0, 6], 0, &[1000, 6], &[0, 1]),
            &["weight", "[0, 1]", "contiguous"],
        ),
        (
            tensor([0, 6], 0, &[4, 3], &[1, 1]),
            &["weight", "[1, 1]", "contiguous"],
        ),
        (tensor([0, 6], -1, &[2, 3], &[3, 1]), &["the number -1"]),
        (tensor([0, 6], 0, &[-2, 3], &[3, 1]), &["the number -2"]),
        (tensor([0, 6], 0, &[2, 3], &[-3, 1]), &["the number -3"]),
        (tensor([0, 6], 0, &[6], &[3, 1]), &["1 sides and 2 strides"]),
        (
            tensor([0, 6], 0, &[1; 65], &[1; 65]),
            &["a tuple for sides"],
        ),
        (tensor([0, -6], 0, &[2, 3], &[3, 1]), &["-6 elements"]),
        (tensor([0, 7], 0, &[2, 3], &[3, 1]), &["storage"]),
        (tensor([0, 5], 0, &[5], &[1]), &["storage"]),
        (tensor([1, 6], 0, &[2, 3], &[3, 1]), &["storage"]),
        (
            tensor([0, max], 0, &[2, 3], &[3, 1]),
            &["lead out", "a storage of"],
        ),
    ];
    for (nth, (pickle, words)) in cases.iter().enumerate() {
        // The last is no storage that could be led out of.
        let words = if nth + 1 == cases.len() {
            &words[1..]
        } else {
            words
        };
        refused(pickle, words);
    }
    // One storage under two types, and one with attributes of which values depend.
    let twice = Pickled::dictionary(|pickle| {
        let first = pickle.storage("HalfStorage", "0", 12).op("0");
        first.tensor([0, 6], 0, &[2, 3], &[3, 1])
    });
    refused(&twice, &["the key \"0\" of another one"]);
    let negated = Pickled::dictionary(|pickle| {
        let call = pickle.global("torch._utils", "_rebuild_tensor_v2").op("(");
        let call = call
            .storage("FloatStorage", "0", 6)
            .number(0)
            .numbers(&[6])
            .numbers(&[1]);
        call.op(b"\x89N}").text("neg").op(b"\x88stR")
    });
    refused(&negated, &["_rebuild_tensor_v2", "attributes"]);
    let of_bytes = Pickled::dictionary(|pickle| {
        let call = pickle.global("torch._utils", "_rebuild_tensor_v3").op("(");
        let call = call
            .storage("UntypedStorage", "0", 24)
            .number(0)
            .numbers(&[3])
            .numbers(&[1]);
        call.op(b"\x89N").global("torch", "complex128").op("tR")
    });
    refused(&of_bytes, &["complex128", "not read"]);
    let module = Pickled::dictionary(|pickle| {
        let id = pickle
            .op("(")
            .text("module")
            .global("torch", "FloatStorage");
        id.text("0").text("cpu").number(6).op("tQ")
    });
    refused(&module, &["storage", "(a text, FloatStorage"]);
}

/// A few bytes that stand for endless work are refused before it is done.
#[test]
fn bombs_are_refused() {
    let leaf = |pickle: Pickled| pickle.tensor([0, 6], 0, &[2, 3], &[3, 1]);
    // A list of two of the list before it, and so on.
    let doubled = Pickled::dictionary(|pickle| {
        let first = leaf(pickle.op("](")).op("eq\x00");
        (0..40).fold(first, |pickle, _| pickle.op("0](h\x00h\x00eq\x00"))
    });
    refused(&doubled, &["more than 1048576 values"]);
    let deep = Pickled::dictionary(|pickle| {
        let open = (0..100_000).fold(pickle, |pickle, _| pickle.op("]("));
        (0..100_000).fold(leaf(open), |pickle, _| pickle.op("e"))
    });
    refused(&deep, &["levels", "64"]);
    let in_itself = Pickled::dictionary(|pickle| {
        leaf(pickle.op("}q\x00").text("a"))
            .op("s")
            .text("b")
            .op("h\x00s")
    });
    refused(&in_itself, &["levels", "64"]);
    let many = Pickled::new().op(vec![b'N'; 5 << 20]).op(".");
    refused(&many, &["objects", "4194304"]);
    // Lengths that the file does not have.
    for long in [
        &b"X\xff\xff\xff\xff"[..],
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\xff",
        b"B\xff\xff\xff\x7f",
    ] {
        refused(&Pickled::new().op(long).op("abc."), &["cut short"]);
    }
}

#[test]
fn dictionaries_of_something_else_are_refused() {
    let new = Pickled::new;
    let tensor = |pickle: Pickled| pickle.tensor([0, 6], 0, &[2, 3], &[3, 1]);
    let under = |pickle: Pickled, key: &str| tensor(pickle.text(key).op("}").text("w")).op("ss");
    let cases: &[(Pickled, &[&str])] = &[
        (new().op("N."), &["holds None"]),
        (tensor(new()).op("."), &["holds a tensor", "state_dict"]),
        (new().op("}."), &["no tensor"]),
        (
            new().op("}").text("epoch").number(3).op("s."),
            &["no tensor", "epoch"],
        ),
        (tensor(new().op("}N")).op("s."), &["None as a key"]),
        (
            under(under(new().op("}"), "model"), "ema").op("."),
            &["under model, ema", "not known"],
        ),
        (
            under(under(new().op("}"), "model"), "state_dict").op("."),
            &["under model, state_dict"],
        ),
        (
            tensor(under(new().op("}"), "model").text("weight")).op("s."),
            &["under model, weight"],
        ),
        (
            tensor(tensor(new().op("}").text("w")).op("s").text("w")).op("s."),
            &["two tensors named w"],
        ),
        (
            tensor(under(new().op("}"), "a").text("a.w")).op("s."),
            &["two tensors named a.w"],
        ),
    ];
    for (pickle, words) in cases {
        refused(pickle, words);
    }
}

/// Whatever is cut or changed, a file is read or refused: this ends, and nothing panics.
#[test]
fn damaged_files_are_read_or_refused() {
    for file in [
        ZipFile::of(&Pickled::right()).bytes(),
        legacy(&Pickled::right()),
    ] {
        for end in (0..file.len()).step_by(3) {
            opened(&file[..end]).expect_err("a part of a file");
        }
        for at in (0..file.len()).step_by(3) {
            for value in [0, 1, 0x7f, 0xff, file[at] ^ 0x10] {
                let mut changed = file.clone();
                changed[at] = value;
                drop(opened(&changed));
            }
        }
    }
}
