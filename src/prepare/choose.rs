//! One choice for each weight: the sum of errors is small, and the sum of bytes within a budget.

/// The size and the error of a weight with one candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Choice {
    pub(super) bytes: u64,
    pub(super) error: f64,
}

/// A place in each list of `table`; `None` where the smallest choices together are more than `budget`.
///
/// Lagrange's way: from the smallest choices up, always the step that saves most error a byte, along the convex hull of
/// each list. That is optimal at every size it passes through. The rest of the budget then goes to the single
/// choices that save most.
pub(super) fn choose(table: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let hulls: Vec<Vec<usize>> = table.iter().map(|choices| hull(choices)).collect();
    let mut chosen: Vec<usize> = hulls
        .iter()
        .map(|hull| hull.first().copied())
        .collect::<Option<_>>()?;
    let bytes = chosen
        .iter()
        .zip(table)
        .map(|(place, choices)| choices[*place].bytes);
    let mut left = budget.checked_sub(bytes.sum())?;

    let mut steps = Vec::new();
    for (weight, hull) in hulls.iter().enumerate() {
        for pair in hull.windows(2) {
            let [from, to] = [pair[0], pair[1]].map(|place| table[weight][place]);
            let slope = (from.error - to.error) / (to.bytes - from.bytes) as f64;
            steps.push((slope, weight, pair[0], pair[1]));
        }
    }
    // Stable: the steps of one weight keep their order.
    steps.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, weight, from, to) in steps {
        let more = table[weight][to].bytes - table[weight][from].bytes;
        if chosen[weight] == from && more <= left {
            (chosen[weight], left) = (to, left - more);
        }
    }

    // Each round lowers the error, so it ends.
    while let Some((weight, place)) = best_left(table, &chosen, left) {
        left = left + table[weight][chosen[weight]].bytes - table[weight][place].bytes;
        chosen[weight] = place;
    }
    Some(chosen)
}

/// The single change that saves most and fits.
fn best_left(table: &[Vec<Choice>], chosen: &[usize], left: u64) -> Option<(usize, usize)> {
    let mut best = None;
    let mut most = 0.0;
    for (weight, choices) in table.iter().enumerate() {
        let now = choices[chosen[weight]];
        for (place, choice) in choices.iter().enumerate() {
            let saved = now.error - choice.error;
            if choice.bytes <= now.bytes + left && saved > most {
                (best, most) = (Some((weight, place)), saved);
            }
        }
    }
    best
}

/// Places on the lower convex hull, from the fewest bytes to the least error.
fn hull(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (choices[*a], choices[*b]);
        a.bytes.cmp(&b.bytes).then(a.error.total_cmp(&b.error))
    });
    let mut hull: Vec<usize> = Vec::new();
    for place in order {
        let new = choices[place];
        if let Some(last) = hull.last()
            && !(choices[*last].error > new.error && choices[*last].bytes < new.bytes)
        {
            continue;
        }
        while let [.., before, last] = hull[..] {
            let (before, last) = (choices[before], choices[last]);
            let slope =
                |from: Choice, to: Choice| (from.error - to.error) / (to.bytes - from.bytes) as f64;
            if slope(before, last) > slope(last, new) {
                break;
            }
            hull.pop();
        }
        hull.push(place);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lists: &[&[(u64, f64)]]) -> Vec<Vec<Choice>> {
        let choice = |&(bytes, error): &(u64, f64)| Choice { bytes, error };
        lists
            .iter()
            .map(|list| list.iter().map(choice).collect())
            .collect()
    }

    fn total(table: &[Vec<Choice>], chosen: &[usize]) -> (u64, f64) {
        let chosen = table.iter().zip(chosen).map(|(list, place)| list[*place]);
        chosen.fold((0, 0.0), |(bytes, error), choice| {
            (bytes + choice.bytes, error + choice.error)
        })
    }

    /// The least error of all choices within the budget, by trying each.
    fn optimum(table: &[Vec<Choice>], budget: u64) -> Option<f64> {
        let Some((first, rest)) = table.split_first() else {
            return Some(0.0);
        };
        let each = first.iter().filter_map(|choice| {
            let rest = optimum(rest, budget.checked_sub(choice.bytes)?)?;
            Some(choice.error + rest)
        });
        each.min_by(f64::total_cmp)
    }

    /// Weights of one size and steps of one size, where each step saves less than the one before: at every budget the
    /// choice is the optimum. The second list holds a choice that is never worth it, the third is in no order.
    #[test]
    fn a_table_of_equal_steps_is_solved() {
        let table = table(&[
            &[(20, 64.0), (30, 16.0), (40, 4.0), (50, 1.0)],
            &[(20, 9.0), (30, 5.0), (35, 30.0), (40, 2.0), (50, 1.5)],
            &[(50, 1.5), (20, 7.0), (30, 4.0), (40, 2.0)],
            &[(20, 200.0), (30, 90.0), (40, 10.0), (50, 9.0)],
        ]);
        for budget in 0..230 {
            let found = choose(&table, budget).map(|chosen| total(&table, &chosen));
            assert!(found.is_none_or(|(bytes, _)| bytes <= budget));
            assert_eq!(
                found.map(|(_, error)| error),
                optimum(&table, budget),
                "{budget}"
            );
        }
    }

    /// Random tables of weights of any size: within the budget, and never further from the optimum than the most that
    /// one step saves.
    #[test]
    fn any_table_is_solved_up_to_a_step() {
        let mut state = 1_u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let (mut exact, mut all) = (0, 0);
        for _ in 0..300 {
            let table: Vec<Vec<Choice>> = (0..4)
                .map(|_| {
                    let size = 1 + next(9);
                    let choice = |k: u64| Choice {
                        bytes: size * (2 + k),
                        error: (size * (1 + next(100))) as f64 / (1 << (2 * k)) as f64,
                    };
                    (0..4).map(choice).collect()
                })
                .collect();
            let sizes = |pick: fn(&[Choice]) -> Choice| -> u64 {
                table.iter().map(|list| pick(list).bytes).sum()
            };
            let [least, most] = [sizes(|list| list[0]), sizes(|list| list[3])];
            let budget = least + next(most - least + 1);
            let (bytes, error) = total(&table, &choose(&table, budget).expect("fits"));
            assert!(bytes <= budget);
            let optimum = optimum(&table, budget).expect("fits");
            let spans = table.iter().map(|list| {
                let errors = list.iter().map(|choice| choice.error);
                errors.clone().fold(0.0, f64::max) - errors.fold(f64::MAX, f64::min)
            });
            let step = spans.fold(0.0, f64::max);
            assert!(error <= optimum + step, "{error} {optimum}");
            all += 1;
            exact += usize::from(error <= optimum + 1e-9);
        }
        assert!(exact * 10 > all * 6, "{exact} of {all} are optimal");
    }
}
