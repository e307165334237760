//! Which rank this process is: what the caller says, or the environment that its launcher has set.

use std::{env, ffi::OsString};

use super::RankError;
use crate::config::{Parallel, RankConfig, Ranks};

/// The variables of one kind of launcher.
struct Launcher {
    rank: &'static str,
    size: &'static str,
    /// The number of the process on its machine.
    local: &'static str,
}

/// The first that is set wins.
const LAUNCHERS: [Launcher; 5] = [
    Launcher {
        rank: "RANK",
        size: "WORLD_SIZE",
        local: "LOCAL_RANK",
    },
    Launcher {
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local: "OMPI_COMM_WORLD_LOCAL_RANK",
    },
    Launcher {
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local: "MPI_LOCALRANKID",
    },
    Launcher {
        rank: "MV2_COMM_WORLD_RANK",
        size: "MV2_COMM_WORLD_SIZE",
        local: "MV2_COMM_WORLD_LOCAL_RANK",
    },
    SLURM,
];

const SLURM: Launcher = Launcher {
    rank: "SLURM_PROCID",
    size: "SLURM_NTASKS",
    local: "SLURM_LOCALID",
};
/// The number of a step of a job, and its tasks.
const SLURM_STEP: &str = "SLURM_STEP_ID";
const SLURM_STEP_TASKS: &str = "SLURM_STEP_NUM_TASKS";
/// Numbers of steps that `srun` has not started begin here: those of a batch script, of an interactive shell.
const SLURM_STEP_RESERVED: usize = 0xffff_fff0;

/// More processes than any launcher starts.
const RANKS_MAX: usize = 1 << 20;

/// Names of the run that a launcher has started: two runs that meet in one folder do not see each other.
const RUNS: [&[&str]; 4] = [
    &["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"],
    &["OMPI_MCA_ess_base_jobid"],
    &["PMIX_NAMESPACE"],
    &["SLURM_JOB_ID", SLURM_STEP],
];

/// A process among several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launched {
    pub(crate) ranks: Ranks,
    /// Its number on its machine, where a launcher says it.
    pub(crate) local: Option<usize>,
    /// A name for the run.
    pub(crate) run: Option<String>,
}

/// Looks a variable up.
type Variables<'v> = &'v dyn Fn(&str) -> Option<String>;

/// How many ranks the launcher of this process has started, by its variables; 1 without a launcher.
///
/// # Errors
///
/// [`RankError`] for numbers that are no ranks, and for launchers that contradict each other.
pub fn started() -> Result<usize, RankError> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let said = environment(&|name| env::var_os(name).map(text))?;
    Ok(said.map_or(1, |said| said.size))
}

/// What the caller says about ranks, and what the environment of this process adds; `None` for a process that is alone.
///
/// # Errors
///
/// [`RankError`] for numbers that are no ranks, and for launchers that contradict each other.
pub(crate) fn launched(config: &RankConfig) -> Result<Option<Launched>, RankError> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    launched_by(config, &|name| env::var_os(name).map(text))
}

fn launched_by(config: &RankConfig, get: Variables<'_>) -> Result<Option<Launched>, RankError> {
    let said = match (config.rank, config.world_size, config.parallel) {
        (None, None, None) => return Ok(None),
        (Some(rank), Some(size), _) => Some((rank, size)),
        _ => None,
    };
    // Options that say everything are right whatever the environment says.
    let found = match said {
        Some(_) => environment(get).ok().flatten(),
        None => environment(get)?,
    };
    let (rank, world_size) = match (said, &found) {
        (Some(said), _) => said,
        (None, Some(found)) => found.agreeing(config)?,
        (None, None) => {
            let option = |name: &str| format!("`--{name}`");
            let half = |has, lacks| RankError::Half {
                has: option(has),
                lacks: option(lacks),
            };
            return Err(match (config.rank, config.world_size, config.parallel) {
                (Some(_), ..) => half("rank", "world-size"),
                (_, Some(_), _) => half("world-size", "rank"),
                (.., parallel) => RankError::NoLauncher {
                    parallel: parallel.unwrap_or_default(),
                },
            });
        }
    };
    if world_size == 0 {
        let from = match (said, &found) {
            (None, Some(found)) => found.family.size.to_owned(),
            _ => "`--world-size`".to_owned(),
        };
        return Err(RankError::Empty { from });
    }
    if world_size > RANKS_MAX {
        let max = RANKS_MAX;
        return Err(RankError::Many { world_size, max });
    }
    if rank >= world_size {
        return Err(RankError::Rank { rank, world_size });
    }
    let same = found.filter(|found| (found.rank, found.size) == (rank, world_size));
    Ok(Some(Launched {
        ranks: Ranks {
            rank,
            world_size,
            parallel: config.parallel.unwrap_or(Parallel::Replicate),
        },
        local: same.and_then(|found| found.local),
        run: run(get),
    }))
}

/// What one family of variables says.
struct LaunchedBy {
    family: &'static Launcher,
    rank: usize,
    size: usize,
    local: Option<usize>,
}

impl LaunchedBy {
    /// Rank and size, unless the option that is given differs.
    fn agreeing(&self, config: &RankConfig) -> Result<(usize, usize), RankError> {
        let Self { rank, size, .. } = *self;
        let differs = |option: Option<usize>, value| option.is_some_and(|option| option != value);
        let option = match (config.rank, config.world_size) {
            (said, _) if differs(said, rank) => format!("`--rank {}`", said.unwrap_or(0)),
            (_, said) if differs(said, size) => format!("`--world-size {}`", said.unwrap_or(0)),
            _ => return Ok((rank, size)),
        };
        Err(RankError::Contradiction {
            first: option,
            second: self.words(),
        })
    }

    fn words(&self) -> String {
        let Launcher { rank, size, .. } = self.family;
        format!("{rank}={}, {size}={}", self.rank, self.size)
    }
}

/// What the first family that is set says, if the others agree. A step of Slurm may have started another launcher, whose
/// ranks are not those of the step.
fn environment(get: Variables<'_>) -> Result<Option<LaunchedBy>, RankError> {
    let number = |variable: &'static str| match get(variable) {
        None => Ok(None),
        Some(text) => match text.trim().parse::<usize>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(RankError::Number {
                variable,
                found: text,
            }),
        },
    };
    let mut first: Option<LaunchedBy> = None;
    for family in &LAUNCHERS {
        let is_slurm = family.rank == SLURM.rank;
        if is_slurm && (first.is_some() || !in_step(get)) {
            continue;
        }
        let size = match is_slurm {
            true => number(SLURM_STEP_TASKS)?.or(number(family.size)?),
            false => number(family.size)?,
        };
        let (rank, size) = match (number(family.rank)?, size) {
            (None, None) => continue,
            (Some(rank), Some(size)) => (rank, size),
            (rank, _) => {
                let names = [family.rank, family.size].map(str::to_owned);
                let [has, lacks] = match rank {
                    Some(_) => names,
                    None => {
                        let [rank, size] = names;
                        [size, rank]
                    }
                };
                return Err(RankError::Half { has, lacks });
            }
        };
        let said = LaunchedBy {
            family,
            rank,
            size,
            local: number(family.local)?,
        };
        match &first {
            None => first = Some(said),
            Some(first) if (first.rank, first.size) != (said.rank, said.size) => {
                return Err(RankError::Contradiction {
                    first: first.words(),
                    second: said.words(),
                });
            }
            Some(_) => {}
        }
    }
    Ok(first)
}

/// Whether `srun` has started this process. A batch script has Slurm's other variables too.
fn in_step(get: Variables<'_>) -> bool {
    let step = get(SLURM_STEP).and_then(|step| step.parse::<usize>().ok());
    step.is_some_and(|step| step < SLURM_STEP_RESERVED)
}

/// The name of the run, of letters that a folder may have.
fn run(get: Variables<'_>) -> Option<String> {
    let named = RUNS.iter().find_map(|names| {
        let values: Option<Vec<String>> = names.iter().map(|name| get(name)).collect();
        values.filter(|values| values.iter().all(|value| !value.is_empty()))
    });
    let safe = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '-'
        }
    };
    named.map(|values| values.join("-").chars().map(safe).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(
        [rank, world_size]: [Option<usize>; 2],
        parallel: Option<Parallel>,
        variables: &[(&str, &str)],
    ) -> Result<Option<[Option<usize>; 3]>, String> {
        let config = RankConfig {
            rank,
            world_size,
            parallel,
            ..RankConfig::default()
        };
        let get = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let found = launched_by(&config, &get).map_err(|error| error.to_string())?;
        Ok(found.map(|found| {
            let Ranks {
                rank, world_size, ..
            } = found.ranks;
            [Some(rank), Some(world_size), found.local]
        }))
    }

    const OPEN: [Option<usize>; 2] = [None, None];
    const SHARD: Option<Parallel> = Some(Parallel::Shard);

    /// The variables are those that each launcher documents. Would catch a launcher that is not known, and one that is asked
    /// before another that it is started by.
    #[test]
    fn the_variables_of_a_launcher_say_which_rank_this_is() {
        let torchrun = [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")];
        let openmpi = [
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ];
        let mpich = [
            ("PMI_RANK", "0"),
            ("PMI_SIZE", "3"),
            ("MPI_LOCALRANKID", "0"),
        ];
        let slurm = [
            ("SLURM_PROCID", "5"),
            ("SLURM_NTASKS", "8"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_ID", "0"),
        ];
        let expect = |numbers: [usize; 3]| Ok(Some(numbers.map(Some)));
        assert_eq!(ask(OPEN, SHARD, &torchrun), expect([3, 4, 1]));
        assert_eq!(ask(OPEN, SHARD, &openmpi), expect([1, 2, 1]));
        assert_eq!(ask(OPEN, SHARD, &mpich), expect([0, 3, 0]));
        assert_eq!(ask(OPEN, SHARD, &slurm), expect([5, 8, 1]));
        // torchrun, started by a step of Slurm, one on each machine.
        let both = [&torchrun[..], &slurm].concat();
        assert_eq!(ask(OPEN, SHARD, &both), expect([3, 4, 1]));
        // Nobody asks for ranks.
        assert_eq!(ask(OPEN, None, &torchrun), Ok(None));
        // Options win; the place on the machine is unknown then.
        let said = ask([Some(0), Some(2)], None, &torchrun);
        assert_eq!(said, Ok(Some([Some(0), Some(2), None])));
    }

    /// Would catch ranks that are taken from half of a launcher, or from one of two that disagree.
    #[test]
    fn contradictions_are_refused() {
        let of = |options, parallel, variables: &[(&str, &str)]| {
            ask(options, parallel, variables).expect_err("is refused")
        };
        let torchrun = [("RANK", "0"), ("WORLD_SIZE", "4")];
        let other = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4")];
        let both = [torchrun, other].concat();
        let error = of(OPEN, SHARD, &both);
        assert!(
            error.starts_with("RANK=0, WORLD_SIZE=4 and OMPI_COMM_WORLD_RANK=1,"),
            "{error}"
        );
        let error = of([Some(1), None], SHARD, &torchrun);
        assert!(
            error.starts_with("`--rank 1` and RANK=0, WORLD_SIZE=4 contradict"),
            "{error}"
        );
        let error = of(OPEN, SHARD, &torchrun[..1]);
        assert!(
            error.starts_with("RANK is given and WORLD_SIZE is not"),
            "{error}"
        );
        let error = of([Some(1), None], None, &[]);
        assert!(
            error.starts_with("`--rank` is given and `--world-size` is not"),
            "{error}"
        );
        let error = of(OPEN, SHARD, &[]);
        assert!(
            error.starts_with("`--parallel shard` needs ranks"),
            "{error}"
        );
        let error = of([Some(2), Some(2)], None, &[]);
        assert_eq!(error, "there is no rank 2 of 2; ranks count from 0");
        let error = of([Some(0), Some(0)], None, &[]);
        assert!(error.starts_with("a world of 0 ranks"), "{error}");
        let error = of([Some(0), Some(usize::MAX)], None, &[]);
        assert!(error.ends_with("ranks are more than 1048576"), "{error}");
        let error = of(OPEN, SHARD, &[("RANK", "one"), ("WORLD_SIZE", "2")]);
        assert!(error.starts_with("the variable RANK is \"one\""), "{error}");
        // A batch script of Slurm is no step of it.
        let batch = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")];
        assert!(of(OPEN, SHARD, &batch).contains("needs ranks"));
        let batch = [&batch[..], &[("SLURM_STEP_ID", "4294967291")]].concat();
        assert!(of(OPEN, SHARD, &batch).contains("needs ranks"));
    }
}
