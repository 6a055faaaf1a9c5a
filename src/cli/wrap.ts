/**
 * Breaks lines between words at a terminal's width, in text that arrives in pieces. A word is held until it ends, as only then is it
 * known whether it fits. It knows no terminal; without a width text passes as it is.
 */

/** Letters that stand two cells wide, and between which a line may break anywhere. */
const wide = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Emoji_Presentation}\u3000-\u303f\uff01-\uff60]/u;
const joins = /\p{M}|\u{200d}|\u{fe0f}/u;

const cells = (letter: string): number => (wide.test(letter) ? 2 : joins.test(letter) ? 0 : 1);

export class WordWrap {
  readonly #width: () => number | undefined;
  /** Cells of the line that are out already. */
  #column = 0;
  /** Spaces behind them, which a break swallows. */
  #spaces = "";
  #word = "";
  #wordCells = 0;

  /** `width` is asked at each word: terminals change. */
  constructor(width: () => number | undefined) {
    this.#width = width;
  }

  /** What of the text so far can be shown. */
  push(text: string): string {
    if (this.#width() === undefined) return this.flush() + text;
    let shown = "";
    for (const letter of text) {
      if (letter === "\n") {
        shown += `${this.#endWord()}\n`;
        this.#column = 0;
        this.#spaces = "";
      } else if (letter === " " || letter === "\t") {
        shown += this.#endWord();
        this.#spaces += letter;
      } else {
        const two = cells(letter) === 2;
        if (two) shown += this.#endWord();
        this.#word += letter;
        this.#wordCells += cells(letter);
        if (two) shown += this.#endWord();
      }
    }
    return shown;
  }

  /** The rest, when nothing more comes. */
  flush(): string {
    const rest = this.#endWord() + this.#spaces;
    this.#spaces = "";
    return rest;
  }

  #endWord(): string {
    if (this.#word === "") return "";
    const width = this.#width() ?? Infinity;
    const fits = this.#column + this.#spaces.length + this.#wordCells <= width;
    // A word longer than a line is the terminal's to break, but it starts a line.
    const breaks = !fits && this.#column > 0;
    const shown = (breaks ? "\n" : this.#spaces) + this.#word;
    this.#column = breaks ? this.#wordCells : this.#column + this.#spaces.length + this.#wordCells;
    if (this.#column > width) this.#column %= width;
    this.#spaces = this.#word = "";
    this.#wordCells = 0;
    return shown;
  }
}
