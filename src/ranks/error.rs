//! Ranks that contradict each other, and models that cannot be divided among them.

use core::fmt;

use firebox_kernels::format::{Format, MatrixAxis};

use crate::{config::Parallel, model::CutError};

/// Several processes cannot load the model together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RankError {
    /// Only one of two numbers is given.
    #[error("{has} is given and {lacks} is not; give both or neither")]
    Half {
        /// The number that is given.
        has: String,
        /// The other one.
        lacks: String,
    },
    /// No process at all.
    #[error("a world of 0 ranks holds no model; give {from} of at least 1")]
    Empty {
        /// Where the number comes from.
        from: String,
    },
    /// More processes than can be.
    #[error("{world_size} ranks are more than {max}")]
    Many {
        /// How many were said.
        world_size: usize,
        /// How many there may be.
        max: usize,
    },
    /// A number that is too large.
    #[error("there is no rank {rank} of {world_size}; ranks count from 0")]
    Rank {
        /// The rank.
        rank: usize,
        /// How many there are.
        world_size: usize,
    },
    /// A variable that is no number.
    #[error("the variable {variable} is {found:?}, which is no number of at least 0")]
    Number {
        /// The variable.
        variable: &'static str,
        /// What it is.
        found: String,
    },
    /// Two launchers, or a launcher and an option, say different things.
    #[error(
        "{first} and {second} contradict each other; unset the variables of one, or give `--rank` and `--world-size`"
    )]
    Contradiction {
        /// `RANK=0, WORLD_SIZE=2`
        first: String,
        /// The other one.
        second: String,
    },
    /// Nobody says which rank this is.
    #[error(
        "`--parallel {parallel}` needs ranks, and neither `--rank` and `--world-size` nor the variables of a launcher \
         (torchrun, mpirun, srun) say which one this is"
    )]
    NoLauncher {
        /// What was asked for.
        parallel: Parallel,
    },
    /// More stages than layers.
    #[error(
        "{ranks} ranks want a layer each, and the model has {layers}; take {layers} ranks at most"
    )]
    Layers {
        /// How many layers there are.
        layers: usize,
        /// How many ranks.
        ranks: usize,
    },
    /// Heads or features do not divide.
    #[error("{source}; {}", most(*largest))]
    Heads {
        /// What does not divide.
        source: CutError,
        /// The largest number of ranks, below the one that was asked for, that this model can be cut for.
        largest: Option<usize>,
    },
    /// A group, a tile or a word does not end where a part does.
    #[error(
        "{tensor}: {} of {format} along `{axis}` do not end with a part of {size}/{ranks}; {}",
        together(*unit),
        most(*largest)
    )]
    Groups {
        /// The tensor.
        tensor: String,
        /// The format.
        format: Box<Format>,
        /// The axis that is cut.
        axis: MatrixAxis,
        /// Rows or columns that stay together; `None` where this format is not cut along the axis at all.
        unit: Option<usize>,
        /// Rows or columns that there are.
        size: usize,
        /// How many ranks there are.
        ranks: usize,
        /// The largest number of ranks, below the one that was asked for, that this model can be cut for.
        largest: Option<usize>,
    },
    /// Something that needs all weights in one process.
    #[error("{what} cannot be had with `--parallel {parallel}`; {instead}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// The division.
        parallel: Parallel,
        /// What to do.
        instead: &'static str,
    },
    /// A module of a part computes with other ranks.
    #[error(
        "a module of `--parallel {parallel}` computes with the other ranks, and there are no messages between them: start a program with the feature `mpi` by `mpirun` or `srun` (`LoadRequest::ranks`), or only load (`firebox load`, `Loader::load_part`)"
    )]
    Alone {
        /// The division.
        parallel: Parallel,
    },
    /// A file of the meeting could not be written or read.
    #[error("{folder}: ranks cannot meet here: {reason}")]
    Folder {
        /// The folder.
        folder: String,
        /// Why not.
        reason: String,
    },
    /// Ranks that did not come.
    #[error("{folder}: after {seconds} s, {} not here", list(absent))]
    Absent {
        /// The folder of the meeting.
        folder: String,
        /// Those that are missing.
        absent: Vec<usize>,
        /// How long they were waited for.
        seconds: u64,
    },
    /// Two processes say that they are the same rank.
    #[error("{folder}: another process is rank {rank} too; each needs a number of its own")]
    Twice {
        /// The folder of the meeting.
        folder: String,
        /// The rank.
        rank: usize,
    },
    /// Two ranks load different things.
    #[error("rank {other} and rank {rank} differ: {field} is {theirs} there and {ours} here")]
    Differs {
        /// This rank.
        rank: usize,
        /// The other one.
        other: usize,
        /// What differs.
        field: String,
        /// Its value there.
        theirs: String,
        /// Its value here.
        ours: String,
    },
    /// A rank has failed.
    #[error("rank {rank} failed: {reason}")]
    Failed {
        /// The rank.
        rank: usize,
        /// Its error.
        reason: String,
    },
    /// A rank is gone.
    #[error("rank {rank} is silent for {seconds} s: it has ended, or its machine is out of reach")]
    Lost {
        /// The rank.
        rank: usize,
        /// For how long.
        seconds: u64,
    },
    /// The rank that writes the shared cache does not go on.
    #[error(
        "{folder}: rank 0 has written nothing for {seconds} s; the packed weights that this rank waits for are not there"
    )]
    Cache {
        /// The folder of the cache.
        folder: String,
        /// How long nothing happened.
        seconds: u64,
    },
}

fn together(unit: Option<usize>) -> impl fmt::Display {
    match unit {
        Some(unit) => format!("the {unit} values that stay together"),
        None => "values".to_owned(),
    }
}

fn most(largest: Option<usize>) -> impl fmt::Display {
    match largest {
        Some(1) | None => "no number of ranks above 1 and below it works".to_owned(),
        Some(largest) => format!("the largest number of ranks below it that works is {largest}"),
    }
}

fn list(ranks: &[usize]) -> impl fmt::Display {
    let names: Vec<String> = ranks.iter().map(usize::to_string).collect();
    match ranks {
        [one] => format!("rank {one} is"),
        _ => format!("ranks {} are", names.join(", ")),
    }
}
