/// Four neighbours of a row: half of a word quad.
fn weight4(row: u32, quad: u32) -> vec4f {
    let words = w[row * p.w_pitch + quad / 2u];
    let pair = select(words.xy, words.zw, (quad & 1u) == 1u);
    return vec4f(unpack2x16float(pair.x), unpack2x16float(pair.y));
}

/// The product of 32 neighbours of a row with `x`.
fn dot32(row: u32, block: u32, x: ptr<function, array<vec4f, 8>>) -> f32 {
    let at = row * p.w_pitch + block * 4u;
    var sum = vec4f();
    for (var i = 0u; i < 4u; i++) {
        let words = w[at + i];
        sum += (*x)[2u * i] * vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
        sum += (*x)[2u * i + 1u] * vec4f(unpack2x16float(words.z), unpack2x16float(words.w));
    }
    return dot(sum, vec4f(1.0));
}
