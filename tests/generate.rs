//! Generation by itself: a decoder that is a table takes the place of a model, so that each choice is
//! known.

use core::ops::ControlFlow;
use std::cell::RefCell;

use burn::tensor::{DType, Tensor, TensorData};
use firebox::{
    model::{
        Cache, CacheError, Draw, GenerateError, GenerateOptions, Generated, NextToken, Sampling,
        StopReason, generate,
    },
    target::{Cpu, Target},
};

/// Says the same logits after every token, and writes down what it was given.
struct Table {
    logits: Vec<f32>,
    positions: usize,
    given: RefCell<Vec<Vec<u32>>>,
}

impl Table {
    fn new(logits: &[f32]) -> Self {
        Self {
            logits: logits.to_vec(),
            positions: 1 << 16,
            given: RefCell::default(),
        }
    }
}

impl NextToken for Table {
    fn vocabulary(&self) -> usize {
        self.logits.len()
    }

    fn cache(&self) -> Cache {
        Cache::new(0, self.positions)
    }

    fn step(&self, ids: &[u32], cache: &mut Cache) -> Result<Tensor<1>, CacheError> {
        cache.extend(0, [1, ids.len()])?;
        self.given.borrow_mut().push(ids.to_vec());
        let device = Cpu::device(0).expect("there is always a CPU");
        let logits = TensorData::new(self.logits.clone(), [self.logits.len()]);
        Ok(Tensor::from_data(logits, (&device, DType::F32)))
    }
}

fn options(max_new_tokens: usize, sampling: Sampling) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens,
        stop_ids: Vec::new(),
        sampling,
    }
}

fn draw(seed: u64) -> Draw {
    Draw {
        temperature: 1.0,
        top_k: None,
        top_p: None,
        seed,
    }
}

fn drawn(model: &Table, tokens: usize, draw: Draw) -> Vec<u32> {
    let options = options(tokens, Sampling::Draw(draw));
    let go_on = |_| ControlFlow::Continue(());
    let generated = generate(model, &[0], &options, go_on).expect("a valid prompt");
    generated.ids
}

/// Catches a prompt fed token by token, or a token fed twice.
#[test]
fn the_prompt_is_one_pass_and_each_token_one_step() {
    let model = Table::new(&[0.0, 1.0, 0.5]);
    let mut told = Vec::new();

    let generated = generate(&model, &[2, 0, 2], &options(3, Sampling::Greedy), |id| {
        told.push(id);
        ControlFlow::Continue(())
    });

    let expected = Generated {
        ids: vec![1, 1, 1],
        stop: StopReason::MaxNewTokens,
    };
    assert_eq!(generated, Ok(expected));
    assert_eq!(told, [1, 1, 1]);
    // The third new token is not fed: nobody asks what comes after it.
    assert_eq!(*model.given.borrow(), [vec![2, 0, 2], vec![1], vec![1]]);
}

/// Catches an answer that depends on the order in which equals are looked at.
#[test]
fn of_equally_likely_tokens_greedy_takes_the_lowest_id() {
    let model = Table::new(&[0.0, 3.0, 1.0, 3.0]);
    let go_on = |_| ControlFlow::Continue(());
    let generated = generate(&model, &[0], &options(1, Sampling::Greedy), go_on);
    assert_eq!(generated.map(|generated| generated.ids), Ok(vec![1]));
}

/// Catches an end token that is shown to the reader.
#[test]
fn a_stop_id_ends_the_text_and_is_not_part_of_it() {
    let model = Table::new(&[0.0, 1.0]);
    let options = GenerateOptions {
        stop_ids: vec![7, 1],
        ..options(5, Sampling::Greedy)
    };
    let mut told = 0;

    let generated = generate(&model, &[0], &options, |_| {
        told += 1;
        ControlFlow::Continue(())
    });

    let expected = Generated {
        ids: vec![],
        stop: StopReason::StopId(1),
    };
    assert_eq!((generated, told), (Ok(expected), 0));
}

/// Catches a caller that is not listened to, and the token lost at which it broke off.
#[test]
fn the_caller_can_break_off_and_keeps_the_token() {
    let model = Table::new(&[0.0, 1.0]);
    let mut left = 2;

    let generated = generate(&model, &[0], &options(9, Sampling::Greedy), |_| {
        left -= 1;
        match left {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });

    let expected = Generated {
        ids: vec![1, 1],
        stop: StopReason::Caller,
    };
    assert_eq!(generated, Ok(expected));
}

/// A context of five takes a prompt of three and two of the tokens after it; the logits of the last one
/// still choose a third. Catches an error that throws the text away, and a count that is one off.
#[test]
fn a_context_that_fills_up_ends_the_text_and_keeps_it() {
    let model = Table {
        positions: 5,
        ..Table::new(&[0.0, 1.0])
    };
    let go_on = |_| ControlFlow::Continue(());

    let generated = generate(&model, &[0, 0, 0], &options(9, Sampling::Greedy), go_on);

    let expected = Generated {
        ids: vec![1, 1, 1],
        stop: StopReason::ContextFull,
    };
    assert_eq!(generated, Ok(expected));
}

/// Catches a panic, or noise, for prompts that no model can take.
#[test]
fn a_prompt_that_cannot_be_is_refused_with_its_numbers() {
    let model = Table {
        positions: 4,
        ..Table::new(&[0.0, 1.0])
    };
    let refused = |prompt: &[u32]| {
        let options = options(1, Sampling::Greedy);
        generate(&model, prompt, &options, |_| ControlFlow::Continue(())).unwrap_err()
    };

    assert_eq!(refused(&[]), GenerateError::EmptyPrompt);
    let id = GenerateError::Id {
        position: 1,
        id: 2,
        vocabulary: 2,
    };
    assert_eq!(refused(&[0, 2]), id);
    let full = CacheError::Full {
        held: 0,
        asked: 5,
        limit: 4,
    };
    assert_eq!(refused(&[0; 5]), GenerateError::Cache(full));
    assert!(model.given.borrow().is_empty(), "before any work");
}

/// Catches NaN taken for an answer: a comparison with NaN is false, and token 0 would come out for ever.
#[test]
fn logits_without_a_largest_are_an_error_and_not_token_zero() {
    for broken in [f32::NAN, f32::INFINITY] {
        for sampling in [Sampling::Greedy, Sampling::Draw(draw(1))] {
            let model = Table::new(&[0.0, broken, 1.0]);
            let go_on = |_| ControlFlow::Continue(());
            let error = generate(&model, &[0], &options(1, sampling), go_on).unwrap_err();
            assert!(
                matches!(error, GenerateError::NotFinite { position: 1, .. }),
                "{broken} {sampling:?}: {error:?}"
            );
        }
    }
    // A token that must not come is no error.
    let model = Table::new(&[f32::NEG_INFINITY, 0.0]);
    assert_eq!(drawn(&model, 50, draw(1)), [1; 50]);
}

/// Catches a draw that depends on anything but the seed.
#[test]
fn a_seed_draws_the_same_tokens_and_another_seed_others() {
    let model = Table::new(&[0.0; 16]);
    let first = drawn(&model, 64, draw(7));
    assert_eq!(first, drawn(&model, 64, draw(7)));
    assert_ne!(first, drawn(&model, 64, draw(8)));
    // Written out (the upper four bits of SplitMix64 from 7): a seed keeps its meaning from one version
    // to the next.
    assert_eq!(first[..8], [6, 0, 14, 9, 7, 3, 7, 5]);
}

/// Catches probabilities that are not the softmax of the logits over the temperature: with log-odds of
/// 3 to 1 the shares are 3/4 at temperature 1, and 9/10 at 1/2.
#[test]
fn tokens_come_as_often_as_the_softmax_says() {
    let model = Table::new(&[0.0, 3f32.ln()]);
    for (temperature, share) in [(1.0, 0.75), (0.5, 0.9)] {
        let draw = Draw {
            temperature,
            ..draw(3)
        };
        let ones = drawn(&model, 4000, draw)
            .iter()
            .filter(|id| **id == 1)
            .count();
        let found = ones as f64 / 4000.0;
        // Four standard deviations of 4000 draws at most.
        assert!((found - share).abs() < 0.028, "{temperature}: {found}");
    }
}

/// Shares of 8, 4, 2, 1, 1 sixteenths. Catches a cut that keeps one token too many or too few: at 3/4
/// the first two are just enough, at a little more the third takes part.
#[test]
fn cuts_leave_out_the_unlikely_tokens_only() {
    let shares: [f32; 5] = [1.0, 8.0, 4.0, 2.0, 1.0];
    let model = Table::new(&shares.map(f32::ln));
    let seen = |top_k, top_p| {
        let draw = Draw {
            top_k,
            top_p,
            ..draw(5)
        };
        let mut ids = drawn(&model, 600, draw);
        ids.sort_unstable();
        ids.dedup();
        ids
    };

    assert_eq!(seen(None, None), [0, 1, 2, 3, 4]);
    assert_eq!(seen(Some(1), None), [1]);
    assert_eq!(seen(Some(3), None), [1, 2, 3]);
    assert_eq!(seen(Some(99), None), [0, 1, 2, 3, 4]);
    assert_eq!(seen(None, Some(0.01)), [1]);
    assert_eq!(seen(None, Some(0.74)), [1, 2]);
    assert_eq!(seen(None, Some(0.76)), [1, 2, 3]);
    assert_eq!(seen(None, Some(1.0)), [0, 1, 2, 3, 4]);
    // Together: of the first three, 8/14 and 4/14 are enough for 0.8.
    assert_eq!(seen(Some(3), Some(0.8)), [1, 2]);
}

/// Catches a division by zero that would come out as a token.
#[test]
fn numbers_that_nothing_can_be_drawn_with_are_refused_by_field() {
    let model = Table::new(&[0.0, 1.0]);
    let cases = [
        (
            Draw {
                temperature: 0.0,
                ..draw(1)
            },
            "temperature",
        ),
        (
            Draw {
                temperature: f32::NAN,
                ..draw(1)
            },
            "temperature",
        ),
        (
            Draw {
                top_k: Some(0),
                ..draw(1)
            },
            "top_k",
        ),
        (
            Draw {
                top_p: Some(0.0),
                ..draw(1)
            },
            "top_p",
        ),
        (
            Draw {
                top_p: Some(1.5),
                ..draw(1)
            },
            "top_p",
        ),
        (
            Draw {
                top_p: Some(f32::NAN),
                ..draw(1)
            },
            "top_p",
        ),
    ];
    for (draw, expected) in cases {
        let options = options(1, Sampling::Draw(draw));
        let error = generate(&model, &[0], &options, |_| ControlFlow::Continue(())).unwrap_err();
        assert!(
            matches!(error, GenerateError::Draw { field, .. } if field == expected),
            "{expected}: {error:?}"
        );
    }
    assert!(model.given.borrow().is_empty(), "before any work");
}
