//! The words of methods that choose whole numbers, and of the choice among methods.

use core::{fmt, str::FromStr};

use firebox_kernels::{
    arith::float::DType,
    formats::{
        hqq::{Axis, Group, Hqq, Levels},
        wna16::{ScaleGroup, Wna16},
    },
    packing::Packing,
};

use super::{
    auto::Auto,
    error::SpecError,
    options::{say, set, unknown_option},
};

const MLX_OPTIONS: &str = "bits=N and group=N";
const HQQ_OPTIONS: &str = "bits=N, group=…, axis=…, zero=… and unsolved";
const WNA16_OPTIONS: &str = "bits=N, group=N, scale=… and asymmetric";

/// The defaults of MLX and of hqq's layers.
const BITS: usize = 4;
const GROUP: usize = 64;
/// The group of compressed-tensors' W4A16.
const WNA16_GROUP: usize = 128;

const WIDTHS: &str = "2, 3, 4, 5, 6 or 8";

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn count(text: &str) -> Option<usize> {
    number(text).filter(|count| *count > 0)
}

pub(super) fn mlx<'a>(
    spec: &str,
    options: impl Iterator<Item = &'a str>,
) -> Result<Packing, SpecError> {
    let (mut bits, mut group) = (None, None);
    for option in options {
        let (said, name, text, known) = match option.split_once('=') {
            Some(("bits", text)) => (&mut bits, "bits", text, WIDTHS),
            Some(("group", text)) => (&mut group, "group", text, "32, 64 or 128"),
            _ => return Err(unknown_option(spec, "mlx", option, MLX_OPTIONS)),
        };
        set(spec, said, option, (name, text), known, number::<usize>)?;
    }
    let bits = bits.map_or(BITS, |(_, bits)| bits);
    let group = group.map_or(GROUP, |(_, group)| group);
    Packing::mlx(bits, group).map_err(|source| SpecError::Format {
        spec: spec.to_owned(),
        source,
    })
}

pub(super) fn hqq<'a>(
    spec: &str,
    options: impl Iterator<Item = &'a str>,
) -> Result<Hqq, SpecError> {
    let (mut bits, mut group, mut axis, mut zero, mut unsolved) = (None, None, None, None, None);
    for option in options {
        match option.split_once('=') {
            Some(("bits", text)) => {
                let known = "1, 1.58, 2, 3, 4, 5, 6 or 8";
                set(spec, &mut bits, option, ("bits", text), known, levels)?;
            }
            Some(("group", text)) => {
                let known = "a number of weights, `line` or `all`";
                let read = |text: &str| match text {
                    "line" => Some(Group::Line),
                    "all" => Some(Group::All),
                    text => count(text).map(Group::Of),
                };
                set(spec, &mut group, option, ("group", text), known, read)?;
            }
            Some(("axis", text)) => {
                let read = |text: &str| match text {
                    "0" => Some(Axis::First),
                    "1" => Some(Axis::Last),
                    _ => None,
                };
                set(spec, &mut axis, option, ("axis", text), "0 or 1", read)?;
            }
            Some(("zero", text)) => {
                let read = |text: &str| match text {
                    "whole" => Some(true),
                    "free" => Some(false),
                    _ => None,
                };
                let known = "whole or free";
                set(spec, &mut zero, option, ("zero", text), known, read)?;
            }
            None if option == "unsolved" => say(spec, &mut unsolved, option, ())?,
            _ => return Err(unknown_option(spec, "hqq", option, HQQ_OPTIONS)),
        }
    }
    let levels = bits.map_or(Levels::Bits(BITS), |(_, levels)| levels);
    Ok(Hqq {
        levels,
        group: group.map_or(Group::Of(GROUP), |(_, group)| group),
        axis: axis.map_or(Axis::Last, |(_, axis)| axis),
        optimize: unsolved.is_none(),
        round_zero: zero.map_or(rounds(levels), |(_, whole)| whole),
        // The weight's own type, which is known with the weight.
        params: DType::F32,
    })
}

fn levels(text: &str) -> Option<Levels> {
    match text {
        "1.58" => Some(Levels::Three),
        text => number(text)
            .filter(|bits| matches!(bits, 1..=6 | 8))
            .map(Levels::Bits),
    }
}

/// hqq's own default.
fn rounds(levels: Levels) -> bool {
    levels == Levels::Bits(4)
}

pub(super) fn print_hqq(hqq: Hqq, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match hqq.levels {
        Levels::Bits(bits) => write!(f, "hqq:bits={bits}")?,
        Levels::Three => f.write_str("hqq:bits=1.58")?,
    }
    match hqq.group {
        Group::Of(group) => write!(f, ",group={group}")?,
        Group::Line => f.write_str(",group=line")?,
        Group::All => f.write_str(",group=all")?,
    }
    f.write_str(match hqq.axis {
        Axis::First => ",axis=0",
        Axis::Last => ",axis=1",
    })?;
    if hqq.round_zero != rounds(hqq.levels) {
        f.write_str(if hqq.round_zero {
            ",zero=whole"
        } else {
            ",zero=free"
        })?;
    }
    if !hqq.optimize {
        f.write_str(",unsolved")?;
    }
    Ok(())
}

pub(super) fn wna16<'a>(
    spec: &str,
    options: impl Iterator<Item = &'a str>,
) -> Result<Wna16, SpecError> {
    let (mut bits, mut scale, mut asymmetric) = (None, None, None);
    for option in options {
        match option.split_once('=') {
            Some(("bits", text)) => {
                let read = |text: &str| number(text).filter(|bits| matches!(bits, 2..=6 | 8));
                set(spec, &mut bits, option, ("bits", text), WIDTHS, read)?;
            }
            Some(("group", text)) => {
                let known = "a number of weights";
                let read = |text: &str| count(text).map(ScaleGroup::Group);
                set(spec, &mut scale, option, ("group", text), known, read)?;
            }
            Some(("scale", text)) => {
                let read = |text: &str| match text {
                    "tensor" => Some(ScaleGroup::Tensor),
                    "channel" => Some(ScaleGroup::Channel),
                    _ => None,
                };
                let known = "tensor or channel, or group=N instead";
                set(spec, &mut scale, option, ("scale", text), known, read)?;
            }
            None if option == "asymmetric" => say(spec, &mut asymmetric, option, ())?,
            _ => return Err(unknown_option(spec, "wna16", option, WNA16_OPTIONS)),
        }
    }
    Ok(Wna16 {
        bits: bits.map_or(BITS, |(_, bits)| bits),
        scale: scale.map_or(ScaleGroup::Group(WNA16_GROUP), |(_, scale)| scale),
        symmetric: asymmetric.is_none(),
    })
}

pub(super) fn print_wna16(wna16: Wna16, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "wna16:bits={}", wna16.bits)?;
    match wna16.scale {
        ScaleGroup::Group(group) => write!(f, ",group={group}")?,
        ScaleGroup::Channel => f.write_str(",scale=channel")?,
        ScaleGroup::Tensor => f.write_str(",scale=tensor")?,
    }
    if wna16.symmetric {
        Ok(())
    } else {
        f.write_str(",asymmetric")
    }
}

/// One limit, or none.
pub(super) fn auto<'a>(
    spec: &str,
    mut options: impl Iterator<Item = &'a str>,
) -> Result<Auto, SpecError> {
    const OPTIONS: &str =
        "nothing, or one of bits=NUMBER and size=SIZE, such as bits=4.25 or size=2GiB";
    let Some(first) = options.next() else {
        return Ok(Auto::Fitting);
    };
    let limit = Auto::parse(first).ok_or_else(|| unknown_option(spec, "auto", first, OPTIONS))?;
    match options.next() {
        None => Ok(limit),
        Some(second) => Err(SpecError::Repeated {
            spec: spec.to_owned(),
            first: first.to_owned(),
            second: second.to_owned(),
        }),
    }
}
