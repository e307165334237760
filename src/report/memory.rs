//! Memory of this process and machine.
/// Bytes of physical memory.
pub fn physical() -> Option<u64> {
    None
}
