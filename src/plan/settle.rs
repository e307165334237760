//! Which weight lives where, and what follows from that.

use super::{Action, Home, Plan, Step};
use crate::config::{Strategy, StreamFrom};

impl Plan {
    /// Chooses the home of every weight of a module: on the first device, unless it is to be streamed from `stream`.
    pub(crate) fn settle(&mut self, strategy: Strategy, stream: &StreamFrom) {
        self.settle_devices(strategy);
        let streamed = match stream {
            StreamFrom::Host => Home::Host,
            StreamFrom::Disk(_) => Home::Disk,
        };
        for step in &mut self.steps {
            let streams = strategy == Strategy::Streaming && step.slot.is_matrix();
            step.home = if streams { streamed } else { Home::Device(0) };
            step.device = 0;
        }
    }

    /// Chooses which devices pack, whatever lives where.
    pub(crate) fn settle_devices(&mut self, strategy: Strategy) {
        self.strategy = strategy;
        for device in &mut self.devices {
            // In shared memory a tile that is uploaded is a second copy of itself; streamed weights are packed where
            // they stay.
            let on_host = matches!(strategy, Strategy::UnifiedMemory | Strategy::Streaming);
            device.packs = !device.on_host && !on_host;
        }
    }

    /// Sends every weight to `home`.
    pub(crate) fn send(&mut self, home: Home) {
        for step in &mut self.steps {
            step.home = home;
        }
    }

    /// The target of the devices.
    pub fn target(&self) -> &str {
        self.devices.first().map_or("", |device| &device.target)
    }

    /// Whether finished weights of `step` stay in host memory.
    pub(crate) fn stays_on_host(&self, step: &Step) -> bool {
        match step.home {
            Home::Host => true,
            Home::Device(nth) => self.devices.get(nth).is_some_and(|device| device.on_host),
            Home::Disk | Home::Sink => false,
        }
    }

    /// Whether a device packs the weight of `step`.
    pub(crate) fn packs_on_device(&self, step: &Step) -> bool {
        let packs = match step.home {
            Home::Device(nth) => self.devices.get(nth).is_some_and(|device| device.packs),
            Home::Sink => self.devices.iter().any(|device| device.packs),
            Home::Host | Home::Disk => false,
        };
        packs && step.has_device_method()
    }

    /// Whether a device packs any weight.
    pub(crate) fn packs_on_devices(&self) -> bool {
        let mut devices = self.devices.iter();
        devices.any(|device| device.packs)
    }

    /// The smallest number of bytes that finished weights take on a device: all weights that live there, and the largest
    /// one that streams to it.
    pub fn bytes_on_device(&self, device: usize) -> u64 {
        let streamed = self.steps.iter();
        let streamed = streamed.filter(|step| step.streams() && step.device == device);
        let streamed = streamed.map(Step::bytes_finished).max();
        self.resident(device) + streamed.unwrap_or(0)
    }

    /// Bytes of the finished weights that live on a device.
    pub fn resident(&self, device: usize) -> u64 {
        let home = self.steps.iter();
        let home = home.filter(|step| step.home == Home::Device(device));
        home.map(Step::bytes_kept).sum()
    }
}

impl Step {
    /// Whether the weight comes to a device when a product needs it.
    pub(crate) fn streams(&self) -> bool {
        matches!(self.home, Home::Host | Home::Disk)
    }

    /// Whether it is packed by a method that devices have.
    fn has_device_method(&self) -> bool {
        let Action::Pack(spec, _) = &self.action else {
            return false;
        };
        spec.method()
            .is_some_and(|method| method.on_device().is_some())
    }
}
