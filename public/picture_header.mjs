// Format and size of a picture from its first bytes, so that one that is too large is refused before it is decoded.
//
// PNG (RFC 2083, IHDR), JPEG (ITU-T T.81, the frame header), WebP (RFC 9649), GIF (89a, the logical screen), BMP (BITMAPINFOHEADER
// and the older BITMAPCOREHEADER).

const text = (view, at, length) => at + length > view.byteLength ? ''
  : String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, length));

const READERS = {
  png: view => text(view, 12, 4) === 'IHDR' && [view.getUint32(16), view.getUint32(20)],
  gif: view => [view.getUint16(6, true), view.getUint16(8, true)],
  bmp: view => view.getUint32(14, true) === 12 ? [view.getUint16(18, true), view.getUint16(20, true)]
    : [Math.abs(view.getInt32(18, true)), Math.abs(view.getInt32(22, true))], // a negative height: rows from the top
  webp: sizeOfWebp,
  jpeg: sizeOfJpeg,
};

/** Returns {type: "image/png", "image/jpeg", ..., width, height} in pixels, as they are stored (before EXIF turns them). `type` is ''
    if the bytes are none of these formats; width is undefined if the header is cut off or wrong. */
export function headerOf(bytes) {
  const view = new DataView(bytes);
  const kind = text(view, 0, 8) === '\x89PNG\r\n\x1a\n' ? 'png' : /^GIF8[79]a/.test(text(view, 0, 6)) ? 'gif'
    : text(view, 0, 4) === 'RIFF' && text(view, 8, 4) === 'WEBP' ? 'webp' : text(view, 0, 3) === '\xff\xd8\xff' ? 'jpeg'
      : text(view, 0, 2) === 'BM' ? 'bmp' : '';
  if (!kind) return { type: '' };
  let size;
  try {
    size = READERS[kind](view);
  } catch { /* a RangeError: the bytes end too early */ }
  const [width, height] = size || [];
  return { type: `image/${kind}`, width, height };
}

function sizeOfWebp(view) {
  const chunk = text(view, 12, 4);
  if (chunk === 'VP8X') return [24, 27].map(at => 1 + view.getUint16(at, true) + (view.getUint8(at + 2) << 16));
  if (chunk === 'VP8L') {
    const bits = view.getUint32(21, true);
    return [1 + (bits & 0x3fff), 1 + (bits >>> 14 & 0x3fff)];
  }
  return chunk === 'VP8 ' && [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff];
}

function sizeOfJpeg(view) {
  for (let at = 2;;) {
    if (view.getUint8(at) !== 0xff) return null;
    const marker = view.getUint8(at + 1);
    const frame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (frame) return [view.getUint16(at + 7), view.getUint16(at + 5)];
    if (marker === 0xff) at += 1; // a fill byte
    else if (marker === 0xda || marker === 0xd9) return null; // the pixels begin, and no frame has come
    else at += 2 + view.getUint16(at + 2);
  }
}
