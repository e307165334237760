//! A step of AdamW by operations on tensors, for devices.

use burn::tensor::{DType as BurnDType, Device, Int, Tensor, TensorData};
use firebox_kernels::{
    adamw::{
        AdamwStep,
        codes::{BLOCK, MomentCodes, SIGNED, UNSIGNED},
    },
    arith::pack::CODES8,
};

use super::moments::Moment;

/// The new parameters and moments, see [`adamw`](firebox_kernels::adamw).
pub(super) fn step(
    step: AdamwStep,
    p: Tensor<1>,
    g: Tensor<1>,
    both: [Moment; 2],
) -> (Tensor<1>, [Moment; 2]) {
    match both {
        [Moment::Full(m), Moment::Full(v)] => {
            let m = m.clone() + (g.clone() - m) * step.first[1];
            let v = second(step, v, g);
            let p = parameter(step, p, m.clone(), v.clone());
            (p, [m, v].map(Moment::Full))
        }
        both => {
            let [n] = p.dims();
            let [m, v] = both;
            let (m, v) = (decode(&SIGNED, m, n), decode(&UNSIGNED, v, n));
            let m = m * step.first[0] + g.clone() * step.first[1];
            let v = second(step, v, g);
            let p = parameter(step, p, m.clone(), v.clone());
            (p, [encode(&SIGNED, m), encode(&UNSIGNED, v)])
        }
    }
}

fn second(step: AdamwStep, v: Tensor<1>, g: Tensor<1>) -> Tensor<1> {
    v * step.second[0] + g.clone() * step.second[1] * g
}

fn parameter(step: AdamwStep, p: Tensor<1>, m: Tensor<1>, v: Tensor<1>) -> Tensor<1> {
    p * step.keep + m * step.rate / (v.sqrt() / step.root + step.eps)
}

/// The values of `n` codes.
fn decode(codes: &MomentCodes, moment: Moment, n: usize) -> Tensor<1> {
    let Moment::Blocks {
        codes: words,
        absmax,
    } = moment
    else {
        unreachable!("both moments of a parameter have one form");
    };
    let device = words.device();
    // [words, codes of a word]
    let codes_of = |k: usize| {
        let codes = words.clone().bitwise_right_shift_scalar(8 * k as u32);
        codes.bitwise_and_scalar(0xff_u32).cast(BurnDType::I32)
    };
    let all: Tensor<2, Int> = Tensor::stack((0..CODES8).map(codes_of).collect(), 1);
    let [blocks] = absmax.dims();
    let values = table(&codes.values, &device).select(0, all.reshape([blocks * BLOCK]));
    let values: Tensor<2> = values.reshape([blocks, BLOCK]) * absmax.unsqueeze_dim(1);
    values.reshape([blocks * BLOCK]).narrow(0, 0, n)
}

/// The codes of values `[n]`: a search by halves among the bounds.
fn encode(codes: &MomentCodes, values: Tensor<1>) -> Moment {
    let device = values.device();
    let [n] = values.dims();
    let blocks = n.div_ceil(BLOCK);
    let filling = Tensor::zeros([blocks * BLOCK - n], (&device, BurnDType::F32));
    let values: Tensor<2> = Tensor::cat(vec![values, filling], 0).reshape([blocks, BLOCK]);
    let absmax = values.clone().abs().max_dim(1);
    // The smallest number that no device takes for 0.
    let values = values * absmax.clone().clamp_min(f32::MIN_POSITIVE).recip();
    let values: Tensor<1> = values.reshape([blocks * BLOCK]);
    let bounds = table(&codes.bounds, &device);
    let mut found: Tensor<1, Int> = Tensor::zeros([blocks * BLOCK], (&device, BurnDType::I32));
    for bit in (0..8).rev() {
        let half = 1_i32 << bit;
        let bound = bounds.clone().select(0, found.clone() + (half - 1));
        let above = bound.lower(values.clone()).int().cast(BurnDType::I32);
        found = found + above * half;
    }
    // [words, codes of a word]
    let found = found.cast(BurnDType::U32);
    let found: Tensor<2, Int> = found.reshape([blocks * BLOCK / CODES8, CODES8]);
    let code = |k: usize| -> Tensor<1, Int> {
        let code = found.clone().narrow(1, k, 1).squeeze_dim(1);
        code.bitwise_left_shift_scalar(8 * k as u32)
    };
    let words = (1..CODES8).fold(code(0), |words, k| words.bitwise_or(code(k)));
    Moment::Blocks {
        codes: words,
        absmax: absmax.squeeze_dim(1),
    }
}

fn table(values: &[f32], device: &Device) -> Tensor<1> {
    let data = TensorData::new(values.to_vec(), [values.len()]);
    Tensor::from_data(data, (device, BurnDType::F32))
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use firebox_kernels::adamw::{self, AdamwSettings, CodedMoments};

    use super::*;
    use crate::train::optimizer::{config::MomentForm, moments::Moments};

    /// Would catch a decode, a search or an order of codes in words that is not the host's. Sums of products are rounded once
    /// there and twice here, so a few codes are the next ones.
    #[test]
    fn steps_are_those_of_the_host() {
        let device = Device::flex();
        let n = 4096 + 301;
        let of = |seed: u32| -> Vec<f32> {
            let mixed = (0..n as u32).map(|k| (k + seed * 7919).wrapping_mul(0x9e37_79b9) >> 8);
            let centred = mixed.map(|bits| bits as f32 / (1 << 23) as f32 - 1.0);
            centred.map(|value| value.powi(5)).collect()
        };
        let tensor = |values: &[f32]| table(values, &device);
        let mut moments = Moments::new(MomentForm::Blocks, &[n], &device).both;
        let mut parameters = tensor(&of(0));
        let mut expected = of(0);
        let mut codes = [vec![0_u8; n], vec![0_u8; n]];
        let mut absmax = [
            vec![0.0_f32; n.div_ceil(BLOCK)],
            vec![0.0; n.div_ceil(BLOCK)],
        ];
        for time in 1..=4 {
            let settings = AdamwSettings {
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                decay: 0.01,
            };
            let (once, g) = (AdamwStep::new(settings, 1e-2, time), of(time as u32));
            (parameters, moments) = step(once, parameters, tensor(&g), moments);
            let ([m, v], [m_absmax, v_absmax]) = (codes.each_mut(), absmax.each_mut());
            let lend = |codes, absmax| CodedMoments { codes, absmax };
            adamw::step_blocks(
                once,
                &mut expected,
                &g,
                lend(m, m_absmax),
                lend(v, v_absmax),
            );
            let found: Vec<f32> = parameters.clone().into_data().try_into_vec().expect("f32");
            let apart = found
                .iter()
                .zip(&expected)
                .filter(|(one, other)| (*one - *other).abs() > 1e-6);
            assert!(apart.count() <= n / 1000, "step {time}");
        }
        for (moment, (codes, absmax)) in moments.iter().zip(codes.iter().zip(&absmax)) {
            let Moment::Blocks {
                codes: words,
                absmax: largest,
            } = moment
            else {
                panic!("moments in 8 bits");
            };
            let words: Vec<u32> = words.clone().into_data().try_into_vec().expect("u32");
            let largest: Vec<f32> = largest.clone().into_data().try_into_vec().expect("f32");
            let found = firebox_kernels::arith::pack::to_bytes(&words, n);
            let apart = found
                .iter()
                .zip(codes)
                .map(|(one, other)| one.abs_diff(*other));
            assert!(apart.clone().max() <= Some(1));
            assert!(apart.filter(|apart| *apart > 0).count() <= n / 1000);
            for (one, other) in largest.iter().zip(absmax) {
                assert!((one - other).abs() <= 1e-6 * other.abs(), "{one} {other}");
            }
        }
    }
}
