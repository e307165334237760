//! The memory of a graphics card, asked of its driver by the card's address on the PCI bus: the order of cards differs between
//! drivers.

use std::{fs, path::Path};

/// The memory of a card, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CardBytes {
    pub(super) total: u64,
    pub(super) free: u64,
    /// That this process has; `None` where the driver does not tell, as in containers.
    pub(super) used: Option<u64>,
}

/// The memory of the card at `address`, such as `0000:01:00.0`; `None` where no driver tells.
pub(super) fn look(address: &str) -> Option<CardBytes> {
    #[cfg(feature = "nvml")]
    if let Some(([total, free], used)) = nvml::look(address) {
        return Some(CardBytes { total, free, used });
    }
    amd(Path::new("/sys/bus/pci/devices"), address)
}

/// AMD's driver for Linux has files for it.
fn amd(devices: &Path, address: &str) -> Option<CardBytes> {
    let number = |file: &str| -> Option<u64> {
        let text = fs::read_to_string(devices.join(address).join(file)).ok()?;
        text.trim().parse().ok()
    };
    let total = number("mem_info_vram_total")?;
    let used_by_all = number("mem_info_vram_used")?;
    Some(CardBytes {
        total,
        free: total.saturating_sub(used_by_all),
        used: None,
    })
}

/// NVIDIA's management library, which is loaded when it is first asked.
#[cfg(feature = "nvml")]
mod nvml {
    use std::sync::OnceLock;

    use nvml_wrapper::{Nvml, enums::device::UsedGpuMemory};

    static LIBRARY: OnceLock<Option<Nvml>> = OnceLock::new();

    /// All bytes and those that are free, and those that this process has.
    pub(super) fn look(address: &str) -> Option<([u64; 2], Option<u64>)> {
        // A machine without the library has no such card.
        let library = LIBRARY.get_or_init(|| Nvml::init().ok()).as_ref()?;
        let card = library.device_by_pci_bus_id(address).ok()?;
        let memory = card.memory_info().ok()?;
        let ours = card.running_compute_processes().ok()?;
        let mut ours = ours
            .iter()
            .filter(|process| process.pid == std::process::id());
        let used = ours
            .next()
            .and_then(|process| match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            });
        Some(([memory.total, memory.free], used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch used memory that is taken for free memory, and a card without such files that is guessed at.
    #[test]
    fn amds_files_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let card = folder.path().join("0000:03:00.0");
        fs::create_dir(&card).expect("writable");
        fs::write(card.join("mem_info_vram_total"), "17163091968\n").expect("writable");
        assert_eq!(amd(folder.path(), "0000:03:00.0"), None);
        fs::write(card.join("mem_info_vram_used"), "1000000000\n").expect("writable");
        let expected = CardBytes {
            total: 17_163_091_968,
            free: 16_163_091_968,
            used: None,
        };
        assert_eq!(amd(folder.path(), "0000:03:00.0"), Some(expected));
        assert_eq!(amd(folder.path(), "0000:04:00.0"), None);
    }
}
