//! What ranks do together, and that none of them waits for ever.

use std::{
    thread,
    time::{Duration, Instant},
};

use firebox::collective::{Collective, CollectiveError, ThreadRanks};

const LONG: Duration = Duration::from_secs(60);

/// What each of `size` ranks gets, one thread each.
fn together<V: Send>(
    size: usize,
    deadline: Duration,
    run: impl Fn(ThreadRanks) -> V + Sync,
) -> Vec<V> {
    let run = &run;
    thread::scope(|scope| {
        let ranks = ThreadRanks::new(size, deadline).into_iter();
        let threads: Vec<_> = ranks.map(|rank| scope.spawn(move || run(rank))).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.map(|ended| ended.expect("no panic")).collect()
    })
}

/// Many times, so that a fast rank meets a slow one in another operation. Would catch a part that is used twice, and ranks that get
/// what belongs to the next meeting.
#[test]
fn operations_give_all_ranks_the_same() {
    for size in 1..5 {
        let ended = together(size, LONG, |ranks| {
            let rank = ranks.rank();
            for nth in 0..200 {
                let mut values = vec![(rank * nth) as f32; nth % 7];
                ranks.all_reduce_f32(&mut values)?;
                let expected = (size * (size - 1) / 2 * nth) as f32;
                assert_eq!(values, vec![expected; nth % 7]);
                let mine = vec![rank as u8; (rank + nth) % 5];
                let all = ranks.all_gather_bytes(&mine)?;
                let expected = (0..size).map(|rank| vec![rank as u8; (rank + nth) % 5]);
                assert_eq!(all, expected.collect::<Vec<_>>());
                let from = nth % size;
                let shared = ranks.broadcast_bytes(vec![rank as u8; nth], from)?;
                assert_eq!(shared, vec![from as u8; nth]);
                ranks.barrier(LONG)?;
            }
            Ok::<(), CollectiveError>(())
        });
        for ended in ended {
            ended.expect("all ranks came");
        }
    }
}

#[test]
fn a_rank_that_ends_fails_or_does_not_come_is_an_error() {
    let begun = Instant::now();
    let ended = together(3, LONG, |ranks| match ranks.rank() {
        1 => Ok(()),
        _ => ranks.barrier(LONG),
    });
    let gone = |rank| CollectiveError::Gone {
        peer: 1,
        rank,
        size: 3,
        operation: "wait for each other",
    };
    assert!(
        ended[0] == Err(gone(0)) || ended[0] == Err(gone(2)),
        "{ended:?}"
    );
    assert!(ended[0] == ended[2] && ended[1] == Ok(()));

    let ended = together(2, LONG, |ranks| match ranks.rank() {
        1 => {
            ranks.fail("no such file");
            ranks.all_gather_bytes(&[])
        }
        _ => ranks.all_gather_bytes(&[1]),
    });
    for ended in ended {
        let failed = CollectiveError::Peer {
            peer: 1,
            reason: "no such file".to_owned(),
        };
        assert_eq!(ended, Err(failed));
    }
    assert!(begun.elapsed() < LONG / 2, "they waited for the deadline");

    let short = Duration::from_millis(50);
    let ended = together(2, short, |ranks| match ranks.rank() {
        1 => {
            thread::sleep(4 * short);
            ranks.barrier(LONG)
        }
        _ => ranks.barrier(short),
    });
    for ended in ended {
        let late = CollectiveError::Late {
            rank: 0,
            size: 2,
            operation: "wait for each other",
            waited: short,
        };
        assert_eq!(ended, Err(late));
    }

    let ended = together(2, LONG, |ranks| {
        ranks.all_reduce_f32(&mut vec![1.0; 1 + ranks.rank()])
    });
    for ended in ended {
        let error = ended.expect_err("they differ").to_string();
        assert!(error.contains("rank 1 gave 2 values"), "{error}");
    }
}
