//! Sorting by a comparison that may fail.

use std::cmp::Ordering;

use super::{datum::Datum, error::Result, meter::Meter};

/// Sorts by a key, from small to large; equal ones keep their order.
pub(super) fn sort<T: Clone>(
    list: &mut Vec<T>,
    key: impl Fn(&T) -> &Datum,
    meter: &Meter,
) -> Result<()> {
    sort_by(list, key, false, meter)
}

/// A merge sort, since a comparison may fail, and since one with a NaN is no order.
pub(super) fn sort_by<T: Clone>(
    list: &mut Vec<T>,
    key: impl Fn(&T) -> &Datum,
    reverse: bool,
    meter: &Meter,
) -> Result<()> {
    let mut width = 1;
    while width < list.len() {
        let mut merged = Vec::with_capacity(list.len());
        for pair in list.chunks(2 * width) {
            let (left, right) = pair.split_at(width.min(pair.len()));
            let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
            loop {
                let takes_right = match (left.peek(), right.peek()) {
                    (Some(left), Some(right)) => {
                        let order = key(right).compare(key(left), meter)?;
                        order
                            == Some(if reverse {
                                Ordering::Greater
                            } else {
                                Ordering::Less
                            })
                    }
                    (None, Some(_)) => true,
                    (_, None) => false,
                };
                match if takes_right {
                    right.next()
                } else {
                    left.next()
                } {
                    Some(item) => merged.push(item.clone()),
                    None => break,
                }
            }
        }
        *list = merged;
        width *= 2;
    }
    Ok(())
}
