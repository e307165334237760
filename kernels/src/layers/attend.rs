//! Attention in tiles: no more scores exist at a time than those of a few queries with a few keys (arXiv:2205.14135, algorithm 1).
//!
//! Letters: `b` batch, `h` query heads, `kv` key heads, `g = h / kv` query heads a key head, `t` queries, `s` keys, `d` features of a
//! query and a key, `e` features of a value. The queries are the last `t` of `s` tokens.
//!
//! ```text
//! job      a key head, up to 16 of its query heads, and tokens: up to 256 rows, one for each head of each token
//! tile     64 keys and their values, from a multiple of 64 on, as f32
//! rows     scores of a tile, 64 a row ─► exponentials ─► added to the answer; greater scores shrink the sums so far
//! ```
//!
//! Tiles begin at the same keys however a text is cut into passes, and a row knows nothing of the others.

mod heads;
mod tile;

use rayon::prelude::*;

pub use heads::{HeadRows, HeadValues, RowScales};

use crate::arith::lanes::{self, LANES};
use tile::{KEYS, TileScratch, TileWalk};

/// Rows of a job.
const JOB_ROWS: usize = 256;

/// Query heads of a job at most.
const JOB_HEADS: usize = 16;

/// Products below which one thread does all jobs.
const FEW: usize = 1 << 16;

/// Queries, and the keys and values that they are compared with.
#[derive(Debug, Clone, Copy)]
pub struct Attend<'a> {
    /// `[b, h, t, d]`.
    pub q: HeadRows<'a>,
    /// `[b, kv, s, d]`.
    pub k: HeadRows<'a>,
    /// `[b, kv, s, e]`.
    pub v: HeadRows<'a>,
    /// Is multiplied with the product of a query and a key.
    pub scale: f32,
    /// `c` bends scores `s` to `c·tanh(s/c)`.
    pub soft_cap: Option<f32>,
    /// `[h]`: the score of one more key for each head, whose value is 0.
    pub sinks: Option<&'a [f32]>,
    /// `[1 or b, t]`: the first key that each query sees; the last one is its own.
    pub first: &'a [usize],
}

/// Bytes that a thread has while it compares queries and keys of `d` features, and values of `e`.
pub const fn scratch_bytes([d, e]: [usize; 2]) -> usize {
    let (long, wide) = (d.next_multiple_of(LANES), e.next_multiple_of(LANES));
    let values = (JOB_ROWS + KEYS + 1) * long + (JOB_ROWS + KEYS) * wide + 2 * JOB_ROWS;
    values * size_of::<f32>()
}

/// Some heads of some tokens, and where their answers go.
struct AttendJob<'o> {
    sequence: usize,
    /// The first head, and their number.
    heads: [usize; 2],
    /// The first token, and their number.
    tokens: [usize; 2],
    /// `[heads·e]` for each token.
    out: Vec<&'o mut [f32]>,
}

impl Attend<'_> {
    /// `softmax(scale · q kᵀ) v`: `[b, t, h, e]`.
    ///
    /// # Panics
    ///
    /// When shapes do not belong together.
    pub fn run(&self) -> Vec<f32> {
        let ([b, h, t, d], [_, kv, s, _]) = (self.q.shape, self.k.shape);
        let e = self.v.shape[3];
        assert_eq!(
            self.k.shape,
            [b, kv, s, d],
            "keys of queries {:?}",
            self.q.shape
        );
        assert_eq!(
            self.v.shape,
            [b, kv, s, e],
            "values of keys {:?}",
            self.k.shape
        );
        assert!(
            kv > 0 && h % kv == 0 && t <= s,
            "{h} heads of {kv}, {t} tokens of {s}"
        );
        assert!(
            self.first.len() == t || self.first.len() == b * t,
            "first keys of {t} queries"
        );
        assert!(
            self.sinks.is_none_or(|sinks| sinks.len() == h),
            "sinks of {h} heads"
        );

        let mut out = vec![0.0; b * t * h * e];
        let mut jobs = self.jobs(&mut out);
        if b * h * t * s * (d + e) <= FEW || jobs.len() < 2 {
            let mut scratch = TileScratch::default();
            for job in &mut jobs {
                self.job(job, &mut scratch);
            }
        } else {
            let jobs = jobs.par_iter_mut();
            jobs.for_each_init(TileScratch::default, |scratch, job| self.job(job, scratch));
        }
        out
    }

    /// The jobs that write `out` `[b, t, h, e]`, those of the last tokens first: they see most.
    fn jobs<'o>(&self, out: &'o mut [f32]) -> Vec<AttendJob<'o>> {
        let [b, h, t, _] = self.q.shape;
        let (kv, e) = (self.k.shape[1], self.v.shape[3]);
        let g = h / kv;
        let heads = g.min(JOB_HEADS);
        let of_token = (JOB_ROWS / heads).max(1);
        let (blocks, parts) = (t.div_ceil(of_token), g.div_ceil(heads));

        let mut jobs = Vec::new();
        for sequence in 0..b {
            for block in 0..blocks {
                let first = block * of_token;
                for head in 0..kv * parts {
                    let within = head % parts * heads;
                    jobs.push(AttendJob {
                        sequence,
                        heads: [head / parts * g + within, heads.min(g - within)],
                        tokens: [first, of_token.min(t - first)],
                        out: Vec::new(),
                    });
                }
            }
        }
        let mut rest = out;
        for sequence in 0..b {
            for token in 0..t {
                let block = (sequence * blocks + token / of_token) * kv * parts;
                for job in &mut jobs[block..block + kv * parts] {
                    let (row, others) = rest.split_at_mut(job.heads[1] * e);
                    job.out.push(row);
                    rest = others;
                }
            }
        }
        jobs.reverse();
        jobs
    }

    fn job(&self, job: &mut AttendJob<'_>, scratch: &mut TileScratch) {
        let ([_, h, t, _], [_, kv, s, _]) = (self.q.shape, self.k.shape);
        let AttendJob {
            sequence,
            heads: [head, heads],
            tokens: [token, tokens],
            ref mut out,
        } = *job;
        let rows = if self.first.len() == t { 0 } else { sequence };
        lanes::run(TileWalk {
            q: self.q,
            k: self.k.head(sequence, head / (h / kv)),
            v: self.v.head(sequence, head / (h / kv)),
            sequence,
            heads: [head, heads],
            token,
            first: &self.first[rows * t + token..][..tokens],
            last: s - t + token,
            scale: self.scale,
            soft_cap: self.soft_cap,
            sinks: self.sinks.map(|sinks| &sinks[head..head + heads]),
            out,
            scratch,
        });
    }
}
