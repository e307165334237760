//! Every golden vector of every dialect as the parts of two, three and four ranks, cut along each axis.

use firebox::{
    Cpu, Error, LoadConfig, Loader,
    config::Parallel,
    model::{Architecture, BuildError, ConfigError, CutError, Slot, WeightCut, Weights},
    pipeline::Finished,
    quant::kernels::format::{Along, Format, Packed, Tile},
    ranks::RankError,
};
use serde_json::Value;

use super::vectors::One;

/// [`One`], cut along its inputs or its outputs.
#[derive(Debug)]
struct CutOne<const ALONG_IN: bool>;

impl<const ALONG_IN: bool> Architecture for CutOne<ALONG_IN> {
    type Config = [usize; 2];

    fn config(json: &Value) -> Result<[usize; 2], ConfigError> {
        One::config(json)
    }

    fn slots(shape: &[usize; 2]) -> Vec<Slot> {
        One::slots(shape)
    }

    fn build(_: &[usize; 2], _: &mut Weights) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn of_rank(
        [o, i]: &[usize; 2],
        rank: usize,
        ranks: usize,
    ) -> Result<([usize; 2], Vec<WeightCut>), CutError> {
        let side = if ALONG_IN { *i } else { *o };
        if !side.is_multiple_of(ranks) {
            return Err(CutError::Uneven {
                module: "up".to_owned(),
                what: "features",
                count: side,
                ranks,
            });
        }
        let share = rank * side / ranks..(rank + 1) * side / ranks;
        let name = "up.weight".to_owned();
        let (shape, rows, cols) = match ALONG_IN {
            true => ([*o, side / ranks], 0..*o, Some(share)),
            false => ([side / ranks, *i], share, None),
        };
        let rows = vec![rows];
        Ok((shape, vec![WeightCut { name, rows, cols }]))
    }
}

/// Asserts that the parts of a checkpoint of one layer are those of `whole`.
pub(super) fn assert_slices(loader: &Loader<Cpu>, whole: &Packed) {
    let values = whole.dequantize();
    for ranks in [2, 3, 4] {
        for rank in 0..ranks {
            assert_part::<false>(loader, whole, &values, [rank, ranks]);
            assert_part::<true>(loader, whole, &values, [rank, ranks]);
        }
        assert_shares(loader, whole, ranks);
    }
}

fn part<const ALONG_IN: bool>(
    loader: &Loader<Cpu>,
    parallel: Parallel,
    [rank, ranks]: [usize; 2],
) -> Result<(firebox::plan::Step, Finished), Error> {
    let config = LoadConfig::default()
        .rank(rank)
        .world_size(ranks)
        .parallel(parallel);
    let source = loader.checkpoint().source().clone();
    let part = Loader::<Cpu>::new(config.source(source)).expect("opens");
    let mut part = part.load_part::<CutOne<ALONG_IN>>()?;
    Ok(part.weights.remove("up.weight").expect("the weight"))
}

fn assert_part<const ALONG_IN: bool>(
    loader: &Loader<Cpu>,
    whole: &Packed,
    values: &[f32],
    place: [usize; 2],
) {
    let what = format!("{:?} of {}, rank {place:?}", whole.shape, whole.format);
    let (step, found) = match part::<ALONG_IN>(loader, Parallel::Tensor, place) {
        Ok(part) => part,
        Err(Error::Rank(error))
            if matches!(*error, RankError::Heads { .. } | RankError::Groups { .. }) =>
        {
            assert!(
                is_uneven::<ALONG_IN>(whole, place[1]),
                "{what}, in: {ALONG_IN}: {error}"
            );
            return;
        }
        Err(error) => panic!("{what}: {error}"),
    };
    let Finished::Packed(found) = found else {
        panic!("{what}: {found:?}");
    };
    let part = step.part.expect("a part");
    let rows = part.rows.iter().cloned().flatten();
    let width = whole.shape[1];
    let places = rows.flat_map(|row| part.cols.clone().map(move |col| row * width + col));
    let expected: Vec<u32> = places.map(|at| values[at].to_bits()).collect();
    let found: Vec<u32> = found.dequantize().into_iter().map(f32::to_bits).collect();
    assert_eq!(found.len() * place[1], values.len(), "{what}");
    assert!(found == expected, "{what}, in: {ALONG_IN}");
    // Halves of a weight in one byte have no columns alone.
    let dialect = loader.dialect().map(firebox::dialect::Dialect::name);
    assert_eq!(
        part.from_whole,
        ALONG_IN && dialect == Some("hqq"),
        "{what}, in: {ALONG_IN}"
    );
}

/// Whether groups, tiles or words do not end with a part, by the words of the documentation.
fn is_uneven<const ALONG_IN: bool>(whole: &Packed, ranks: usize) -> bool {
    let [o, i] = whole.shape;
    let side = if ALONG_IN { i } else { o };
    if !side.is_multiple_of(ranks) {
        return true;
    }
    let part = side / ranks;
    let ends = |unit: usize| part.is_multiple_of(unit);
    let values = |unit: usize| (part * i).is_multiple_of(unit);
    let word = match whole.format.code_bits() {
        4 => 8,
        8 => 4,
        2 => 16,
        _ => 32,
    };
    let fits = match (whole.format, ALONG_IN) {
        (Format::Nf4(blocks) | Format::Fp4(blocks), true) => {
            i.is_multiple_of(blocks.block) && ends(blocks.block)
        }
        (Format::Nf4(blocks) | Format::Fp4(blocks), false) => values(blocks.block),
        (Format::Fp8(_, Tile::Block { rows, cols }), _) => {
            ends(if ALONG_IN { cols } else { rows }) && (ALONG_IN || values(word))
        }
        (Format::Affine(affine), true) => match affine.along {
            Along::Flat if affine.group.is_multiple_of(i) => ends(word),
            Along::Flat => i.is_multiple_of(affine.group) && ends(affine.group) && ends(word),
            _ => false,
        },
        (Format::Affine(affine), false) => match affine.along {
            Along::Strided => false,
            Along::Flat if affine.group == o * i => values(word),
            Along::Flat => values(affine.group) && values(word),
            Along::Ordered => values(word),
        },
        (Format::Micro(micro), true) => ends(micro.group()),
        (_, true) => ends(word),
        (_, false) => values(word),
    };
    let whole_words = !ALONG_IN || i.is_multiple_of(word);
    !(fits && whole_words)
}

fn assert_shares(loader: &Loader<Cpu>, whole: &Packed, ranks: usize) {
    let bytes =
        |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let mut all = [Vec::new(), Vec::new()];
    for rank in 0..ranks {
        let (step, found) = part::<false>(loader, Parallel::Shard, [rank, ranks]).expect("a share");
        let scattered = match whole.format {
            Format::Affine(affine) => affine.along != Along::Flat,
            _ => false,
        };
        let from_whole = step.part.is_some_and(|part| part.from_whole);
        assert_eq!(
            from_whole, scattered,
            "{:?} of {}",
            whole.shape, whole.format
        );
        let Finished::Share(share) = found else {
            panic!("{found:?}");
        };
        all[0].extend(share.values);
        all[1].extend(share.scales);
    }
    let expected = [bytes(&whole.words), bytes(&whole.scales)];
    assert!(
        all == expected,
        "{:?} of {}, {ranks} ranks",
        whole.shape,
        whole.format
    );
}
