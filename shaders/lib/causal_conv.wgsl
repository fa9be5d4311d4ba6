// causal_conv.wgsl: causal depthwise convolution over time, its last tap on the row's own token. The inputs of earlier
// passes lie in a ring: position p at row p % TAPS, so that a pass of one row writes where it does not read.
//
// The kernel supplies: override TAPS, channels(), input(row, channel) of this pass, tap(channel, j), and the variables
// history: array<f32> [TAPS, channels()] (read_write) and step.

fn ring_place(position: u32, channel: u32) -> u32 { return position % TAPS * channels() + channel; }

// The taps on tokens before the row's own. Places before position 0 are read, too, and then left out: a read that waits
// for a condition would wait alone.
fn earlier(row: u32, channel: u32) -> f32 {
  var sum = 0.0;
  for (var j = 0u; j < TAPS - 1u; j++) {
    let back = TAPS - 1u - j;
    var value = 0.0;
    if (back <= row) {
      value = input(row - back, channel);
    } else {
      value = history[ring_place(step.pos + row + TAPS - back, channel)];
      if (back > step.pos + row) { value = 0.0; }
    }
    sum += tap(channel, j) * value;
  }
  return sum;
}

fn convolved(row: u32, channel: u32) -> f32 {
  return earlier(row, channel) + tap(channel, TAPS - 1u) * input(row, channel);
}

// After the last read of the channel: what the next pass will want of this one.
fn remember(channel: u32) {
  if (step.halt != 0u) {
    return;
  }
  for (var t = step.rows - min(step.rows, TAPS); t < step.rows; t++) {
    history[ring_place(step.pos + t, channel)] = input(t, channel);
  }
}
