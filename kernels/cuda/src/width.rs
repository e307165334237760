//! How wide a kernel reads and writes memory, as its PTX says.

/// Bytes of one unit's reads of global memory, one number for each instruction.
pub fn loads(ptx: &str) -> Vec<u32> {
    accesses(ptx, "ld.global")
}

/// The same of its writes.
pub fn stores(ptx: &str) -> Vec<u32> {
    accesses(ptx, "st.global")
}

fn accesses(ptx: &str, instruction: &str) -> Vec<u32> {
    let instructions = ptx.lines().filter_map(|line| {
        let word = line
            .split_whitespace()
            .find(|word| !word.starts_with('@'))?;
        word.strip_prefix(instruction)
    });
    instructions.filter_map(bytes).collect()
}

/// Of the words after the instruction, as in `.nc.v4.u32`.
fn bytes(words: &str) -> Option<u32> {
    let mut words = words.rsplit('.');
    let bits: u32 = words
        .next()?
        .trim_start_matches(char::is_alphabetic)
        .parse()
        .ok()?;
    let count = words.find_map(|word| word.strip_prefix('v')?.parse().ok());
    Some(bits / 8 * count.unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::{loads, stores};

    /// Would catch vectors that count as one value, and loads of shared memory that count.
    #[test]
    fn loads_of_global_memory_are_counted_by_their_bytes() {
        let ptx = "
            ld.param.b64 %rd1, [kernel_param_0];
            ld.global.nc.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];
            @%p1 ld.global.v2.f64 {%d1, %d2}, [%rd2+16];
            ld.shared.v4.b32 {%r5, %r6, %r7, %r8}, [%r9];
            ld.global.L1::no_allocate.b16 %rs1, [%rd3];
            st.global.v4.b32 [%rd4], {%r5, %r6, %r7, %r8};
        ";
        assert_eq!(loads(ptx), [16, 16, 2]);
        assert_eq!(stores(ptx), [16]);
    }
}
