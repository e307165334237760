//! Sums against PyTorch's, to the bit.

mod common;

use common::{Golden, assert_bits, text};
use firebox_kernels::arith::reduce;

/// Every length at which PyTorch changes its order: below a vector, below four, with and without left-over
/// vectors and scalars, and above the first and second emptying of the cascade. A plain sum fails at 31.
#[test]
fn sums_and_means_have_the_bits_of_torch() {
    let golden = Golden::open("torch_reduce", 28);
    let mut checked = 0;
    // The others are sums along one axis, and powers, which `hqq` compares.
    for case in golden
        .cases
        .iter()
        .filter(|case| text(case, "name").starts_with("all/"))
    {
        let name = text(case, "name");
        let values = golden.get(&format!("{name}/input")).floats();
        let mean = golden.get(&format!("{name}/mean")).floats();
        assert_bits(&[reduce::mean(&values)], &mean, name);
        if let Some(sum) = golden.try_get(&format!("{name}/sum")) {
            assert_bits(&[reduce::sum(&values)], &sum.floats(), name);
        }
        checked += 1;
    }
    assert_eq!(checked, 20);
}

/// A running sum started at -0 would keep the sign, which PyTorch's does not.
#[test]
fn minus_zeros_sum_to_zero() {
    for n in [1, 7, 8, 100] {
        assert_eq!(reduce::sum(&vec![-0.0; n]).to_bits(), 0, "{n} zeros");
    }
}
