// The compression function of sha256 (FIPS 180-4, section 6.2.2) as a WebAssembly module, whose bytes are made here. It
// is about three times as fast as the same in JavaScript. The message schedule is computed four words at a time (SIMD).
//
// The module exports `memory` and `blocks(start, end)`, which adds the blocks of 64 bytes at start..end to the state, 8 words at
// byte 0 of the memory. Blocks may lie anywhere from byte DATA on.

// Where the memory holds K, and the message schedule of a block, with K added to each word.
const K_AT = 64, WORDS_AT = K_AT + 4 * 64;
export const DATA = WORDS_AT + 4 * 64;

const K = []; // first 32 bits of the fractional parts of the cube roots of the first 64 primes
export const START = []; // the same of the square roots of the first 8 primes
{
  // In integers, because doubles are not exact enough for all of them.
  const root = (n, power) => {
    let low = 0n, high = 1n << 40n;
    const wanted = BigInt(n) << BigInt(32 * power);
    while (high - low > 1n) {
      const middle = (low + high) >> 1n;
      if (middle ** BigInt(power) <= wanted) low = middle; else high = middle;
    }
    return Number(BigInt.asIntN(32, low));
  };
  for (let n = 2; K.length < 64; n++) {
    let prime = true;
    for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
    if (!prime) continue;
    K.push(root(n, 3));
    if (START.length < 8) START.push(root(n, 2));
  }
}

/** Returns a signed 32-bit integer in LEB128. */
function number(n) {
  const bytes = [];
  while (n < -64 || n > 63) {
    bytes.push(n & 0x7f | 0x80);
    n >>= 7;
  }
  return [...bytes, n & 0x7f];
}

/** Returns an unsigned integer in LEB128. */
function count(n) {
  const bytes = [];
  for (; n > 0x7f; n >>>= 7) bytes.push(n & 0x7f | 0x80);
  return [...bytes, n];
}

// Each function returns the bytes of an expression or statement. A local variable is given by its index.
const get = local => [0x20, local];
const set = (local, value) => [...value, 0x21, local];
const constant = n => [0x41, ...number(n)];
const operation = (...code) => (first, ...others) => others.reduce((left, right) => [...left, ...right, ...code], first);
const add = operation(0x6a), and = operation(0x71), or = operation(0x72), xor = operation(0x73);
const rotate = (value, bits) => [...value, ...constant(bits), 0x78]; // to the right
const load = (address, offset) => [...address, 0x28, 2, ...count(offset)];
const store = (address, offset, value) => [...address, ...value, 0x36, 2, ...count(offset)];

// The same for vectors of four words (or 16 bytes).
const simd = code => [0xfd, ...count(code)];
const addAll = operation(...simd(0xae)), orAll = operation(...simd(0x50)), xorAll = operation(...simd(0x51));
const shiftAll = (value, bits) => [...value, ...constant(bits), ...simd(0xad)]; // to the right
const rotateAll = (value, bits) => orAll(shiftAll(value, bits), [...value, ...constant(32 - bits), ...simd(0xab)]);
const loadAll = (address, offset) => [...address, ...simd(0), 2, ...count(offset)];
const storeAll = (address, offset, value) => [...address, ...value, ...simd(0x0b), 2, ...count(offset)];
const pickBytes = (x, y, bytes) => [...x, ...y, ...simd(0x0d), ...bytes]; // bytes 0 to 15 are x's, 16 to 31 are y's
const pick = (x, y, ...words) => pickBytes(x, y, words.flatMap(word => [0, 1, 2, 3].map(byte => 4 * word + byte)));

// Local variables: the two arguments; a to h; a temporary. Vectors: the last 16 words of the message schedule; a temporary.
const AT = 0, END = 1, STATE = 2, T = 10, WORDS = 11, X = 15;
const EMPTY = 0x40; // the type of a block without a result

const ZERO = constant(0);
const each = (length, make) => Array.from({ length }, (_, i) => make(i)).flat();

/** Returns the code that sets words 4i to 4i + 3 of the message schedule, i < 4. They are big-endian in the block. */
function firstWords(i) {
  const here = loadAll(get(AT), 16 * i);
  return set(WORDS + i, pickBytes(here, here, [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12]));
}

/** Returns the code that replaces the oldest four words, 4i to 4i + 3, by words 4i + 16 to 4i + 19. W[t] is W[t - 16] +
    sigma0(W[t - 15]) + W[t - 7] + sigma1(W[t - 2]), so the last two words need the first two. */
function nextWords(i) {
  const [oldest, second, third, newest] = [0, 1, 2, 3].map(j => get(WORDS + (i + j) % 4));
  const sigma = (x, a, b, c) => xorAll(rotateAll(x, a), rotateAll(x, b), shiftAll(x, c));
  const sum = WORDS + i % 4, plusSigma1 = addAll(get(sum), sigma(get(X), 17, 19, 10));
  return [
    ...set(X, pick(oldest, second, 1, 2, 3, 4)),
    ...set(sum, addAll(oldest, sigma(get(X), 7, 18, 3), pick(third, newest, 1, 2, 3, 4))),
    ...set(X, pick(newest, newest, 2, 3, 2, 3)),
    ...set(X, plusSigma1), // only its first two words are right yet
    ...set(X, pick(get(X), get(X), 0, 1, 0, 1)),
    ...set(sum, pick(get(X), plusSigma1, 0, 1, 6, 7)),
  ];
}

function round(i) {
  // The standard moves each value to the next variable. Here the names rotate, so nothing is moved.
  const [a, b, c, d, e, f, g, h] = Array.from({ length: 8 }, (_, j) => STATE + (j - i & 7));
  const s1 = xor(rotate(get(e), 6), rotate(get(e), 11), rotate(get(e), 25));
  const s0 = xor(rotate(get(a), 2), rotate(get(a), 13), rotate(get(a), 22));
  const choice = xor(and(xor(get(f), get(g)), get(e)), get(g));
  const majority = or(and(get(a), get(b)), and(or(get(a), get(b)), get(c)));
  return [
    ...set(T, add(load(ZERO, WORDS_AT + 4 * i), get(h), choice, s1)),
    ...set(d, add(get(d), get(T))),
    ...set(h, add(get(T), s0, majority)),
  ];
}

/** Returns the code of rounds 4i to 4i + 3, and of the words that the rounds 16 later need. */
function fourRounds(i) {
  return [
    ...storeAll(ZERO, WORDS_AT + 16 * i, addAll(get(WORDS + i % 4), loadAll(ZERO, K_AT + 16 * i))),
    ...i < 12 ? nextWords(i) : [],
    ...each(4, j => round(4 * i + j)),
  ];
}

function code() {
  return [
    0x02, EMPTY, 0x03, EMPTY, // a loop in a block
    ...get(AT), ...get(END), 0x4f, 0x0d, 1, // until AT >= END
    ...each(8, i => set(STATE + i, load(ZERO, 4 * i))),
    ...each(4, firstWords),
    ...each(16, fourRounds),
    ...each(8, i => store(ZERO, 4 * i, add(load(ZERO, 4 * i), get(STATE + i)))),
    ...set(AT, add(get(AT), constant(64))),
    0x0c, 0, 0x0b, 0x0b, // again
    0x0b,
  ];
}

/** Returns the module, with a memory of `pages` pages of 64 KiB. */
export function compile(pages) {
  const I32 = 0x7f, V128 = 0x7b;
  const sized = bytes => [...count(bytes.length), ...bytes];
  const name = text => sized([...text].map(letter => letter.charCodeAt(0)));
  const section = (id, ...items) => [id, ...sized([items.length, ...items.flat()])];
  const body = [2, WORDS - STATE, I32, X - WORDS + 1, V128, ...code()]; // all variables but the two arguments
  return new WebAssembly.Module(new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, // "\0asm", version 1
    ...section(1, [0x60, 2, I32, I32, 0]), // types: (i32, i32) => nothing
    ...section(3, [0]), // functions: one, of that type
    ...section(5, [0, ...count(pages)]), // memories
    ...section(7, [...name('memory'), 2, 0], [...name('blocks'), 0, 0]), // exports
    ...section(10, sized(body)),
    ...section(11, [0, ...constant(K_AT), 0x0b, ...sized(new Uint8Array(Int32Array.from(K).buffer))]), // what lies in the memory
  ]));
}
