//! `--target`: the targets of this build, and an answer to the names of others.

use core::fmt;
use std::ffi::OsStr;

use firebox::target::KnownTarget;

use clap::{
    Arg, Command, Error, ValueEnum,
    builder::{PossibleValue, TypedValueParser},
    error::ErrorKind,
};

/// Targets that this build has. What it lacks is answered by [`TargetParser`].
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum TargetName {
    /// Plain Rust on the CPU
    #[cfg(feature = "cpu")]
    Cpu,
    /// An NVIDIA card through CUDA
    #[cfg(feature = "cuda")]
    Cuda,
    /// Apple's cards through Metal
    #[cfg(feature = "metal")]
    Metal,
    /// Any card with a Vulkan driver
    #[cfg(feature = "vulkan")]
    Vulkan,
    /// Kernels in WebGPU's language, on any graphics driver
    #[cfg(feature = "webgpu")]
    Webgpu,
    /// The best graphics driver of this machine
    #[cfg(feature = "wgpu")]
    Wgpu,
    /// The CPU through ndarray, to compare with
    #[cfg(feature = "ndarray")]
    Ndarray,
    /// One that this build has not, which plans can be made for
    #[value(skip)]
    Absent(KnownTarget),
}

impl Default for TargetName {
    /// The CPU where this build has it: it is there on every machine.
    fn default() -> Self {
        Self::value_variants()[0]
    }
}

impl TargetName {
    /// The same as the library calls it.
    pub(crate) fn known(self) -> KnownTarget {
        match self {
            Self::Absent(target) => target,
            here => {
                let name = here.to_string();
                name.parse()
                    .expect("the library knows the targets of its builds")
            }
        }
    }

    /// Why a target that this build has not does nothing but plan.
    pub(crate) fn absent(target: KnownTarget) -> String {
        let name = target.name();
        format!("the target {name} is not here: {}", advice(name))
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Absent(target) = self {
            return target.fmt(f);
        }
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", PossibleValue::get_name))
    }
}

/// Reads a [`TargetName`], and tells of another one how a build gets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TargetParser;

impl TypedValueParser for TargetParser {
    type Value = TargetName;

    fn parse_ref(
        &self,
        command: &Command,
        _: Option<&Arg>,
        value: &OsStr,
    ) -> Result<TargetName, Error> {
        let text = value.to_string_lossy();
        let variants = TargetName::value_variants();
        let named = |target: &&TargetName| target.to_string() == text;
        if let Some(target) = variants.iter().find(named) {
            return Ok(*target);
        }
        let message = format!(
            "invalid value '{text}' for '--target <TARGET>': {}\n",
            advice(&text)
        );
        Err(Error::raw(ErrorKind::InvalidValue, message).with_cmd(command))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let variants = TargetName::value_variants().iter();
        Some(Box::new(variants.filter_map(ValueEnum::to_possible_value)))
    }
}

/// Reads the name of any target, for plans: those that this build lacks can be planned for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnyTargetParser;

impl TypedValueParser for AnyTargetParser {
    type Value = TargetName;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<TargetName, Error> {
        let here = TargetParser.parse_ref(command, arg, value);
        here.or_else(|error| match value.to_string_lossy().parse() {
            Ok(target) => Ok(TargetName::Absent(target)),
            Err(_) => Err(error),
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let names = KnownTarget::ALL.into_iter().map(KnownTarget::name);
        Some(Box::new(names.map(PossibleValue::new)))
    }
}

/// The features of Cargo that bring targets, and the names that people give those targets.
const FEATURES: [(&str, &[&str]); 7] = [
    ("cpu", &["cpu", "host"]),
    ("cuda", &["cuda", "nvidia", "nvgpu"]),
    ("metal", &["metal", "mps", "mlx", "apple"]),
    (
        "vulkan",
        &["vulkan", "vk", "rocm", "hip", "amd", "xpu", "intel", "sycl"],
    ),
    ("webgpu", &["webgpu", "gl", "opengl"]),
    ("wgpu", &["wgpu", "gpu", "auto", "dx12", "directml"]),
    ("ndarray", &["ndarray"]),
];

/// What to do about a target that is none of this build's.
fn advice(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let (name, device) = match lower.split_once(':') {
        Some((name, device)) => (
            name,
            Some(device).filter(|device| device.parse::<usize>().is_ok()),
        ),
        None => (&*lower, None),
    };
    let here: Vec<String> = TargetName::value_variants()
        .iter()
        .map(ToString::to_string)
        .collect();
    let has = here.join(", ");
    let known = FEATURES.iter().find(|(_, names)| names.contains(&name));
    let Some((feature, _)) = known else {
        return format!("this build has {has}");
    };
    let device = device.map_or(String::new(), |device| format!(" --device {device}"));
    let write = format!("--target {feature}{device}");
    match (
        here.iter().any(|target| target == feature),
        name == *feature && device.is_empty(),
    ) {
        (true, _) => format!("write `{write}`"),
        (false, true) => format!(
            "this build has {has}; build the program with the Cargo feature `{feature}` (`cargo build --release --features {feature}`)"
        ),
        (false, false) => format!(
            "`{write}` is nearest, and this build has {has}; build the program with the Cargo feature `{feature}` \
             (`cargo build --release --features {feature}`)"
        ),
    }
}
