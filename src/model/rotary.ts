/**
 * The table of rotations: cos and sin of position * frequency, computed once for all layers.
 *
 *   frequency_i = theta^(-2i / rotaryDim),  i = 0 .. rotaryDim/2 - 1
 *
 * Rounded to f32 where transformers rounds, so that long positions get the same angles.
 */
import type { RopeConfig } from "./config.ts";

const f32 = Math.fround;

/** The f32 frequency of each pair, after scaling. */
export function frequencies({ theta, rotaryDim, scaling }: RopeConfig): Float32Array {
  return Float32Array.from({ length: rotaryDim / 2 }, (_, i) => scale(f32(1 / f32(theta ** f32((2 * i) / rotaryDim))), scaling, i));
}

function scale(frequency: number, scaling: RopeConfig["scaling"], pair: number): number {
  switch (scaling.kind) {
    case "none": return frequency;
    case "linear": return frequency / scaling.factor;
    case "factors": return frequency / scaling.factors[pair]!;
    case "llama3": {
      // Short waves stay, long ones are stretched by the factor, and those between are blended.
      const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = scaling;
      const wavelength = (2 * Math.PI) / frequency;
      if (wavelength < originalMaxPositions / highFreqFactor) return frequency;
      if (wavelength > originalMaxPositions / lowFreqFactor) return frequency / factor;
      const smooth = (originalMaxPositions / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
      return (1 - smooth) * (frequency / factor) + smooth * frequency;
    }
    default: return scaling satisfies never;
  }
}

/** [numPositions, rotaryDim/2, 2] of (cos, sin). */
export function rotaryTable(rope: RopeConfig, numPositions: number): Float32Array<ArrayBuffer> {
  const inverse = frequencies(rope);
  const table = new Float32Array(numPositions * inverse.length * 2);
  for (let position = 0, at = 0; position < numPositions; position++) {
    for (const frequency of inverse) {
      const angle = f32(position * frequency);
      table[at++] = Math.cos(angle);
      table[at++] = Math.sin(angle);
    }
  }
  return table;
}
