// SPDX-License-Identifier: Apache-2.0

use std::fmt;

use diffusion_scheduling_sys::{DS_BFLOAT16, DS_FLOAT16};

use crate::tensor::element;

macro_rules! half {
    ($(#[$documentation:meta])* $name:ident, $number:expr, $from:ident, $to:ident) => {
        $(#[$documentation])*
        ///
        /// A value has the size and the alignment of its bits, so slices of `u16` and of this type convert without a copy, and
        /// through `u16` so do other crates' 16-bit types. Feature `half-types`.
        #[repr(transparent)]
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name(u16);

        impl $name {
            /// The number with these bits.
            pub const fn from_bits(bits: u16) -> Self {
                Self(bits)
            }

            /// The bits.
            pub const fn to_bits(self) -> u16 {
                self.0
            }

            /// The nearest number; the even one of two equally near ones.
            pub fn from_f32(value: f32) -> Self {
                Self($from(value))
            }

            /// The number as a float32.
            pub fn to_f32(self) -> f32 {
                $to(self.0)
            }

            /// Bits as numbers, in place.
            pub fn slice_of_bits(bits: &[u16]) -> &[Self] {
                // SAFETY: the type is transparent: a slice of it has the layout of a slice of u16, and every u16 is a value.
                unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
            }

            /// Bits as mutable numbers, in place.
            pub fn slice_of_bits_mut(bits: &mut [u16]) -> &mut [Self] {
                // SAFETY: as in slice_of_bits; every value is a u16 again, and the borrow is unique.
                unsafe { std::slice::from_raw_parts_mut(bits.as_mut_ptr().cast(), bits.len()) }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.to_f32(), formatter)
            }
        }

        impl From<$name> for f32 {
            fn from(value: $name) -> f32 {
                value.to_f32()
            }
        }

        element!($name, $number);
    };
}

half! {
    /// IEEE 754's binary16: 5 bits of exponent, 10 of fraction.
    ///
    /// Two values are equal if their bits are, so a NaN equals itself and −0 isn't 0.
    F16, DS_FLOAT16, f16_from_f32, f32_from_f16
}

half! {
    /// The upper half of a float32: 8 bits of exponent, 7 of fraction.
    ///
    /// Two values are equal if their bits are, so a NaN equals itself and −0 isn't 0.
    Bf16, DS_BFLOAT16, bf16_from_f32, f32_from_bf16
}

const INFINITY_F32: u32 = 0x7F80_0000;
const INFINITY_F16: u16 = 0x7C00;

fn f16_from_f32(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = value.to_bits() & 0x7FFF_FFFF;
    let rounded = if magnitude > INFINITY_F32 {
        // A quiet NaN with the first bits of the payload.
        0x7E00 | (magnitude >> 13) as u16 & 0x3FF
    } else if magnitude < 0x3880_0000 {
        // binary16 has steps of 2⁻²⁴ below 2⁻¹⁴, float32's ulp from 1/2 to 1: the sum rounds to such a step.
        ((f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()) as u16
    } else {
        let even = magnitude >> 13 & 1;
        let exponents = 112 << 23;
        ((magnitude + 0xFFF + even).saturating_sub(exponents) >> 13).min(u32::from(INFINITY_F16)) as u16
    };
    sign | rounded
}

fn f32_from_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(bits >> 10 & 0x1F), u32::from(bits & 0x3FF));
    let magnitude = match exponent {
        0 => (fraction as f32 / 16_777_216.0).to_bits(),
        31 => INFINITY_F32 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

fn bf16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let even = bits >> 16 & 1;
    ((bits + 0x7FFF + even) >> 16) as u16
}

fn f32_from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives_a_round_trip() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (F16::from_bits(bits), Bf16::from_bits(bits));
            if half.to_f32().is_nan() {
                assert!(F16::from_f32(half.to_f32()).to_f32().is_nan());
            } else {
                assert_eq!(F16::from_f32(half.to_f32()), half);
            }
            if brain.to_f32().is_nan() {
                assert!(Bf16::from_f32(brain.to_f32()).to_f32().is_nan());
            } else {
                assert_eq!(Bf16::from_f32(brain.to_f32()), brain);
            }
        }
    }

    /// Between two neighbours, a number becomes the nearer one, and the midpoint becomes the even one.
    #[test]
    fn values_between_neighbours_round_to_the_nearest_even_one() {
        fn check(round: impl Fn(f32) -> u16, widen: impl Fn(u16) -> f32, infinity: u16, beyond: f64) {
            for low in 0..infinity {
                let high = low + 1;
                let end = if high == infinity { beyond } else { f64::from(widen(high)) };
                // The midpoint has one bit more than its neighbours, which float32 has, too.
                let middle = ((f64::from(widen(low)) + end) / 2.0) as f32;
                let even = if low % 2 == 0 { low } else { high };
                for (value, expected) in [
                    (middle, even),
                    (f32::from_bits(middle.to_bits() - 1), low),
                    (f32::from_bits(middle.to_bits() + 1), high),
                ] {
                    assert_eq!(round(value), expected, "{value:e}");
                    assert_eq!(round(-value), expected | 0x8000, "-{value:e}");
                }
            }
            assert_eq!(round(f32::INFINITY), infinity);
            assert_eq!(round(f32::NEG_INFINITY), infinity | 0x8000);
        }
        check(f16_from_f32, f32_from_f16, 0x7C00, 65_536.0);
        check(bf16_from_f32, f32_from_bf16, 0x7F80, 2f64.powi(128));
    }

    #[test]
    fn slices_of_bits_are_the_same_memory() {
        let mut bits = [0x3C00, 0xC000];
        assert_eq!(F16::slice_of_bits(&bits), [F16::from_f32(1.0), F16::from_f32(-2.0)]);
        F16::slice_of_bits_mut(&mut bits)[1] = F16::from_f32(0.5);
        Bf16::slice_of_bits_mut(&mut bits)[0] = Bf16::from_f32(1.0);
        assert_eq!(bits, [0x3F80, 0x3800]);
        assert_eq!(format!("{:?}", F16::from_bits(0x3800)), "0.5");
    }
}
