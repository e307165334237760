//! Whole numbers: how many rows of a weight are whole units of several kinds.

/// Rows that have to stay together so that a tile is whole groups of `rows` rows and whole units of
/// `unit` weights, in a weight of `[o, i]`.
pub(crate) const fn tile_rows([o, i]: [usize; 2], rows: usize, unit: usize) -> usize {
    // This number of rows holds whole units.
    let whole = unit / gcd(unit, i);
    let together = multiple(rows, whole);
    if together < o {
        together
    } else if o > 0 {
        o
    } else {
        1
    }
}

/// The greatest common divisor; `a` is not 0.
pub(crate) const fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The least common multiple of two numbers that are not 0, as far as it can be counted.
pub(crate) const fn multiple(a: usize, b: usize) -> usize {
    a.saturating_mul(b / gcd(a, b))
}
