//! Floats of 16 bits, from what their bits mean.

/// A float of 16 bits, `fraction` of them after the point and the exponent biased by `bias`, as f32.
pub(super) fn float_bits(bits: u32, fraction: u32, bias: i32) -> u32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, digits) = ((bits & 0x7fff) >> fraction, bits & ((1 << fraction) - 1));
    let (leading, power) = if exponent == 0 { (0, 1 - bias) } else { (1 << fraction, exponent as i32 - bias) };
    let value = f64::from(leading + digits) * 2f64.powi(power - fraction as i32);
    match (exponent == (1 << (15 - fraction)) - 1, digits) {
        (true, 0) => (sign * f32::INFINITY).to_bits(),
        (true, _) => (bits >> 15) << 31 | f32::NAN.to_bits() | digits << (23 - fraction),
        (false, _) => (sign * value as f32).to_bits(),
    }
}

/// An f32 as f16: the multiple of the distance between neighbouring halves that is nearest.
pub(super) fn half_bits(bits: u32) -> u32 {
    let (sign, value) = ((bits >> 31) << 15, f64::from(f32::from_bits(bits)).abs());
    if value.is_nan() {
        return sign | 0x7e00 | (bits >> 13 & 0x3ff);
    }
    // 11 digits from the leading one on, and none below 2^-24.
    let power = (0..30).map(|e| e - 14).rfind(|e| 2f64.powi(*e) <= value).unwrap_or(-14);
    let digits = (value / 2f64.powi(power - 10)).round_ties_even();
    // Rounded up to 2^16, or above it.
    if digits * 2f64.powi(power - 10) > 65504.0 {
        return sign | 0x7c00;
    }
    // A leading digit, which subnormals lack, stands for the exponent.
    sign | ((power + 14) as u32 * 1024 + digits as u32)
}
