//! One job: its rows against tile after tile of keys.

use core::ops::Range;

use super::heads::{HeadRows, OneHead};
use crate::arith::{
    exp::{exp, tanh},
    lanes::{LANES, Lanes, Work, sum},
};

/// Keys of a tile.
pub(super) const KEYS: usize = 64;

/// With fewer rows than this, each score is a sum of its own. With more, the keys are first put in columns, which all rows share.
const COLUMNS: usize = 12;

/// Some heads of some tokens, and all keys that they see.
pub(super) struct TileWalk<'a, 'o> {
    pub(super) q: HeadRows<'a>,
    pub(super) k: OneHead<'a>,
    pub(super) v: OneHead<'a>,
    pub(super) sequence: usize,
    /// The first head, and their number.
    pub(super) heads: [usize; 2],
    /// The first token.
    pub(super) token: usize,
    /// The first key that each token sees.
    pub(super) first: &'a [usize],
    /// The last key that the first token sees: itself.
    pub(super) last: usize,
    pub(super) scale: f32,
    pub(super) soft_cap: Option<f32>,
    /// Of these heads.
    pub(super) sinks: Option<&'a [f32]>,
    /// `[heads·e]` for each token.
    pub(super) out: &'a mut [&'o mut [f32]],
    pub(super) scratch: &'a mut TileScratch,
}

/// Memory that a thread uses in one job after another. Features are in whole vectors, zeros after the last one.
#[derive(Default)]
pub(super) struct TileScratch {
    /// Queries: rows or, of each group of rows, columns.
    q: Vec<f32>,
    /// Keys of a tile: rows or columns.
    k: Vec<f32>,
    /// Their values, as rows.
    v: Vec<f32>,
    /// What rows have read so far, not divided yet.
    read: Vec<f32>,
    /// The greatest score of each row, and the sum of its exponentials.
    sums: Vec<[f32; 2]>,
    row: Vec<f32>,
}

impl Work for TileWalk<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn on<L: Lanes>(self, lanes: L) {
        // Sums that fit the registers.
        match L::ROWS {
            4 => self.walk::<L, 4, 4>(lanes),
            _ => self.walk::<L, 2, 2>(lanes),
        }
    }
}

impl TileWalk<'_, '_> {
    /// All rows in groups of `R`, of which `V` vectors are summed at once.
    #[inline(always)]
    fn walk<L: Lanes, const R: usize, const V: usize>(self, lanes: L) {
        let (d, e) = (self.q.shape[3], self.v.features());
        let (long, wide) = (d.next_multiple_of(LANES), e.next_multiple_of(LANES));
        let [_, heads] = self.heads;
        let rows = self.first.len() * heads;
        let (groups, columns) = (rows.div_ceil(R), rows >= COLUMNS);

        let TileScratch {
            q,
            k,
            v,
            read,
            sums,
            row,
        } = &mut *self.scratch;
        for (values, len) in [
            (&mut *q, groups * R * long),
            (&mut *k, KEYS * long),
            (&mut *v, KEYS * wide),
            (&mut *read, groups * R * wide),
            (&mut *row, long),
        ] {
            values.clear();
            values.resize(len, 0.0);
        }
        sums.clear();
        sums.resize(rows, [f32::NEG_INFINITY, 0.0]);

        for nth in 0..rows {
            let head = self.q.head(self.sequence, self.heads[0] + nth % heads);
            head.read(self.token + nth / heads, &mut row[..d]);
            for (i, x) in row[..d].iter().enumerate() {
                let at = match columns {
                    true => (nth / R * long + i) * R + nth % R,
                    false => nth * long + i,
                };
                q[at] = x * self.scale;
            }
        }

        let earliest = self.first.iter().copied().min().unwrap_or(0);
        let end = self.last + self.first.len();
        for from in (earliest / KEYS * KEYS..end).step_by(KEYS) {
            let keys = KEYS.min(end - from);
            for (nth, v) in v.chunks_exact_mut(wide).take(keys).enumerate() {
                self.v.read(from + nth, &mut v[..e]);
            }
            for nth in 0..keys {
                if !columns {
                    self.k.read(from + nth, &mut k[nth * long..][..d]);
                    continue;
                }
                self.k.read(from + nth, &mut row[..d]);
                for (k, x) in k.as_chunks_mut::<KEYS>().0.iter_mut().zip(&row[..d]) {
                    k[nth] = *x;
                }
            }
            for group in 0..groups {
                let of_group = group * R..rows.min((group + 1) * R);
                let tokens = of_group.start / heads..(of_group.end - 1) / heads + 1;
                let seen = |token: usize| {
                    let first = self.first[token].saturating_sub(from).min(keys);
                    first..(self.last + token + 1).saturating_sub(from).min(keys)
                };
                if tokens.clone().all(|token| seen(token).is_empty()) {
                    continue;
                }
                let q = &q[group * R * long..][..R * long];
                let mut scores = match columns {
                    true => by_columns::<L, R, V>(lanes, q, k),
                    false => by_rows::<L, R>(lanes, q, k, long, keys),
                };
                let read = &mut read[group * R * wide..][..R * wide];
                for (r, scores) in scores.iter_mut().enumerate() {
                    let nth = group * R + r;
                    if nth >= rows {
                        *scores = [0.0; KEYS];
                        continue;
                    }
                    let shrink = weigh(scores, seen(nth / heads), self.soft_cap, &mut sums[nth]);
                    if shrink != 1.0 {
                        for read in &mut read[r * wide..][..wide] {
                            *read *= shrink;
                        }
                    }
                }
                let mut column = 0;
                while column + V * LANES <= wide {
                    mix::<L, R, V>(lanes, &scores, &v[..keys * wide], read, wide, column);
                    column += V * LANES;
                }
                while column < wide {
                    mix::<L, R, 1>(lanes, &scores, &v[..keys * wide], read, wide, column);
                    column += LANES;
                }
            }
        }

        for (nth, &[greatest, total]) in sums.iter().enumerate() {
            let (token, head) = (nth / heads, nth % heads);
            let factor = match self.sinks {
                None => 1.0 / total,
                Some(sinks) => {
                    let sink = sinks[head];
                    let most = if sink > greatest { sink } else { greatest };
                    let shrink = exp(greatest - most);
                    shrink / (total * shrink + exp(sink - most))
                }
            };
            let out = &mut self.out[token][head * e..][..e];
            for (out, read) in out.iter_mut().zip(&read[nth * wide..]) {
                *out = read * factor;
            }
        }
    }
}

/// Scores of `R` rows, `[d, R]`, with keys in columns, `[d, KEYS]`.
#[inline(always)]
fn by_columns<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    q: &[f32],
    k: &[f32],
) -> [[f32; KEYS]; R] {
    let mut scores = [[0.0; KEYS]; R];
    let mut first = 0;
    while first < KEYS / LANES {
        let mut sums = [[lanes.splat(0.0); V]; R];
        let features = q.as_chunks::<R>().0.iter().zip(k.as_chunks::<KEYS>().0);
        for (q, k) in features {
            let k = k.as_chunks::<LANES>().0;
            for v in 0..V {
                let k = lanes.load(&k[first + v]);
                for r in 0..R {
                    sums[r][v] = lanes.mul_add(lanes.splat(q[r]), k, sums[r][v]);
                }
            }
        }
        for r in 0..R {
            let to = scores[r].as_chunks_mut::<LANES>().0;
            for v in 0..V {
                lanes.store(sums[r][v], &mut to[first + v]);
            }
        }
        first += V;
    }
    scores
}

/// Scores of `R` rows, `[R, long]`, with the first `keys` of keys in rows, `[KEYS, long]`.
#[inline(always)]
fn by_rows<L: Lanes, const R: usize>(
    lanes: L,
    q: &[f32],
    k: &[f32],
    long: usize,
    keys: usize,
) -> [[f32; KEYS]; R] {
    let mut scores = [[0.0; KEYS]; R];
    for (nth, k) in (0..KEYS).zip(k.chunks_exact(long).take(keys)) {
        let k = k.as_chunks::<LANES>().0;
        for r in 0..R {
            let q = q[r * long..][..long].as_chunks::<LANES>().0;
            let mut total = lanes.splat(0.0);
            for (q, k) in q.iter().zip(k) {
                total = lanes.mul_add(lanes.load(q), lanes.load(k), total);
            }
            let mut parts = [0.0; LANES];
            lanes.store(total, &mut parts);
            scores[r][nth] = sum(parts);
        }
    }
    scores
}

/// Makes weights of the scores of a row with the keys that it sees, and adds them to its `sums`; what the row has so far is to be
/// multiplied by the result.
#[inline(always)]
fn weigh(
    scores: &mut [f32; KEYS],
    seen: Range<usize>,
    soft_cap: Option<f32>,
    sums: &mut [f32; 2],
) -> f32 {
    if seen.is_empty() {
        *scores = [0.0; KEYS];
        return 1.0;
    }
    if let Some(cap) = soft_cap {
        for score in scores.iter_mut() {
            *score = cap * tanh(*score / cap);
        }
    }
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);

    let [before, total] = *sums;
    let mut most = [before; LANES];
    for scores in scores.as_chunks::<LANES>().0 {
        for k in 0..LANES {
            most[k] = if scores[k] > most[k] {
                scores[k]
            } else {
                most[k]
            };
        }
    }
    let most = most.into_iter().reduce(|a, b| if b > a { b } else { a });
    let most = most.unwrap_or(before);
    let mut added = [0.0; LANES];
    for scores in scores.as_chunks_mut::<LANES>().0 {
        for k in 0..LANES {
            scores[k] = exp(scores[k] - most);
            added[k] += scores[k];
        }
    }
    let shrink = exp(before - most);
    *sums = [most, total * shrink + sum(added)];
    shrink
}

/// Adds the values of keys `[keys, wide]`, each with its weight, to what `R` rows have read, in `V` vectors from `column` on.
#[inline(always)]
fn mix<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    weights: &[[f32; KEYS]; R],
    v: &[f32],
    read: &mut [f32],
    wide: usize,
    column: usize,
) {
    let mut sums = [[lanes.splat(0.0); V]; R];
    for r in 0..R {
        let read = read[r * wide + column..][..V * LANES]
            .as_chunks::<LANES>()
            .0;
        for c in 0..V {
            sums[r][c] = lanes.load(&read[c]);
        }
    }
    for (nth, v) in (0..KEYS).zip(v.chunks_exact(wide)) {
        let v = v[column..][..V * LANES].as_chunks::<LANES>().0;
        for c in 0..V {
            let v = lanes.load(&v[c]);
            for r in 0..R {
                sums[r][c] = lanes.mul_add(lanes.splat(weights[r][nth]), v, sums[r][c]);
            }
        }
    }
    for r in 0..R {
        let read = &mut read[r * wide + column..][..V * LANES];
        let read = read.as_chunks_mut::<LANES>().0;
        for c in 0..V {
            lanes.store(sums[r][c], &mut read[c]);
        }
    }
}
