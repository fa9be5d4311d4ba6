// weight_octet.wgsl: eight elements of a weight row as values. After: chunk, a weight library.

fn octet_values(packed: PackedOctet) -> Octet {
  let raw = octet_unpack(packed);
  if (QUANTISED) {
    let affine = octet_affine(packed);
    return Octet(raw.lo * affine.x + affine.y, raw.hi * affine.x + affine.y);
  }
  return raw;
}
