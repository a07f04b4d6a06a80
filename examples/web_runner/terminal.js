"use strict";

/**
 * A terminal: shows what a program writes for `TERM=xterm-256color`, and turns keys into the bytes
 * that the program expects. It knows the sequences that shells, `vi`, `top` and `less` use.
 */
class Terminal {
  /** The number of rows that are kept above the screen. */
  static HISTORY = 1000;
  static PLAIN = Object.freeze({ fg: null, bg: null, bold: false, dim: false, italic: false, underline: false, inverse: false });
  static PALETTE = ["#3b4252", "#e06c75", "#8fc379", "#e5c07b", "#6cb0f0", "#c88be0", "#5fc4cf", "#d8dee8",
    "#6b7689", "#ff8b93", "#aee39a", "#ffd98f", "#90c8ff", "#dfa9f5", "#83e0ea", "#ffffff"];
  static KEYS = { Enter: "\r", Backspace: "\x7f", Tab: "\t", Escape: "\x1b", Insert: "\x1b[2~", Delete: "\x1b[3~",
    PageUp: "\x1b[5~", PageDown: "\x1b[6~", F1: "\x1bOP", F2: "\x1bOQ", F3: "\x1bOR", F4: "\x1bOS", F5: "\x1b[15~",
    F6: "\x1b[17~", F7: "\x1b[18~", F8: "\x1b[19~", F9: "\x1b[20~", F10: "\x1b[21~", F11: "\x1b[23~", F12: "\x1b[24~" };
  static CURSOR_KEYS = { ArrowUp: "A", ArrowDown: "B", ArrowRight: "C", ArrowLeft: "D", Home: "H", End: "F" };
  /** The characters of the line-drawing set, from `` ` `` to `~`. */
  static LINES = "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·";
  /** Characters that take two cells. */
  static WIDE = /^[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;
  /** One control sequence. Another one also ends a string such as the title. */
  static SEQUENCE = /\x1b(?:\[([<-?]?)([\d;:]*)([ -\/]*)([@-~])|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|(?=\x1b[^\\]))|([()*+])(.)|[ #%].|([0-9<-OQ-WYZ\\`-~]))/y;
  /** The beginning of a sequence, which waits for the rest. */
  static INCOMPLETE = /\x1b(?:\[[<-?]?[\d;:]*[ -\/]*|[\]PX^_][^\x07\x1b]*\x1b?|[()*+ #%])?$/y;
  /** The maximum of a parameter. It is larger than every screen. */
  static MAX_PARAMETER = 9999;

  constructor(element, { onInput, onResize }) {
    this.element = element;
    this.onInput = onInput;
    this.onResize = onResize;
    this.screen = document.createElement("div");
    this.input = document.createElement("textarea");
    Object.assign(this.input, { autocapitalize: "off", autocomplete: "off", spellcheck: false });
    this.input.setAttribute("aria-label", "Terminal input");
    element.append(this.screen, this.input);
    this.columns = 80;
    this.rows = 24;
    /** Whether the view stays at the last row. A user who scrolls up reads earlier rows. */
    this.isFollowing = true;
    this.reset();
    this.listen();
  }

  // --- The screen

  reset() {
    this.pending = this.replies = "";
    this.history = [];
    this.pen = Terminal.PLAIN;
    this.isAlternate = this.isWrapDue = this.isInserting = this.hasLineDrawing = false;
    this.isCursorShown = this.isWrapping = true;
    this.hasCursorKeys = this.hasBracketedPaste = this.isOrigin = false;
    this.lines = this.blankLines(this.rows);
    this.main = null;
    [this.x, this.y, this.top, this.bottom] = [0, 0, 0, this.rows - 1];
    this.saved = { x: 0, y: 0, pen: this.pen };
    this.screen.replaceChildren();
    this.draw();
  }

  blank() {
    return { text: " ", style: this.pen.bg === null ? Terminal.PLAIN : { ...Terminal.PLAIN, bg: this.pen.bg } };
  }

  blankLine() {
    return Array.from({ length: this.columns }, () => this.blank());
  }

  blankLines(count) {
    return Array.from({ length: count }, () => this.blankLine());
  }

  /** Adapts the screen to the size of the element. Returns the size in characters. */
  fit() {
    const probe = document.createElement("span");
    probe.textContent = "0".repeat(50);
    const row = document.createElement("div");
    row.className = "row";
    row.append(probe);
    this.screen.append(row);
    const [width, height] = [probe.getBoundingClientRect().width / 50, row.getBoundingClientRect().height];
    row.remove();
    const { clientWidth, clientHeight } = this.element;
    const padding = 2 * parseFloat(getComputedStyle(this.element).paddingLeft);
    if (width > 0 && clientHeight > 0) {
      const columns = Math.max(20, Math.floor((clientWidth - padding) / width));
      this.resize(columns, Math.max(5, Math.floor((clientHeight - padding) / height)));
    }
    return { columns: this.columns, rows: this.rows };
  }

  resize(columns, rows) {
    if (columns === this.columns && rows === this.rows) return;
    this.columns = columns;
    this.y = this.resizeLines(this.lines, this.y, rows, !this.isAlternate);
    if (this.isAlternate) this.main.y = this.resizeLines(this.main.lines, this.main.y, rows, true);
    [this.rows, this.top, this.bottom] = [rows, 0, rows - 1];
    this.moveTo(this.x, this.y);
    this.draw();
    this.onResize({ columns, rows });
  }

  /** Returns the row of the cursor, which was `y`. Cells beyond a smaller width stay for later. */
  resizeLines(lines, y, rows, hasHistory) {
    while (lines.length > rows) {
      if (lines.length > y + 1) {
        lines.pop();
      } else {
        const line = lines.shift();
        if (hasHistory) this.remember(line);
        y -= 1;
      }
    }
    while (lines.length < rows) {
      if (hasHistory && this.history.length > 0) {
        lines.unshift(this.history.pop());
        y += 1;
      } else {
        lines.push([]);
      }
    }
    for (const line of lines) {
      while (line.length < this.columns) line.push({ text: " ", style: Terminal.PLAIN });
    }
    return y;
  }

  remember(line) {
    this.history.push(line);
    if (this.history.length > Terminal.HISTORY) this.history.shift();
  }

  clearHistory() {
    this.history = [];
    this.draw();
  }

  // --- Output of the program

  write(text) {
    text = this.pending + text;
    this.pending = "";
    const plain = /[^\x00-\x1f\x7f]+/y;
    for (let at = 0; at < text.length;) {
      plain.lastIndex = Terminal.SEQUENCE.lastIndex = Terminal.INCOMPLETE.lastIndex = at;
      const run = plain.exec(text);
      if (run !== null) {
        for (const character of run[0]) this.put(character);
        at = plain.lastIndex;
      } else if (text[at] !== "\x1b") {
        this.control(text[at]);
        at += 1;
      } else {
        const match = Terminal.SEQUENCE.exec(text);
        if (match !== null) {
          this.sequence(match);
          at = Terminal.SEQUENCE.lastIndex;
        } else if (text.length - at < 4096 && Terminal.INCOMPLETE.test(text)) {
          this.pending = text.slice(at);
          break;
        } else {
          at += 1;
        }
      }
    }
    if (this.replies !== "") this.onInput(this.replies);
    this.replies = "";
    this.draw();
  }

  /** Answers a question after this piece of output. Ignores a flood of questions. */
  reply(text) {
    if (this.replies.length < 128) this.replies += text;
  }

  put(character) {
    if (/^\p{M}|^[\u200b-\u200f\ufe00-\ufe0f]/u.test(character)) {
      const cell = this.lines[this.y][this.x - 1];
      if (cell !== undefined && cell.text.length < 16) cell.text += character;
      return;
    }
    if (this.hasLineDrawing && character >= "`" && character <= "~") {
      character = Terminal.LINES[character.charCodeAt(0) - 96];
    }
    const width = Terminal.WIDE.test(character) ? 2 : 1;
    if (this.isWrapDue || this.x + width > this.columns) {
      if (this.isWrapping) {
        this.x = 0;
        this.lineFeed();
      } else {
        this.x = this.columns - width;
      }
    }
    const line = this.lines[this.y];
    const cells = [{ text: character, style: this.pen }];
    if (width === 2) cells.push({ text: "", style: this.pen });
    line.splice(this.x, this.isInserting ? 0 : width, ...cells);
    line.length = this.columns;
    this.last = character;
    this.x += width;
    this.isWrapDue = this.x >= this.columns;
    if (this.isWrapDue) this.x = this.columns - 1;
  }

  control(character) {
    switch (character) {
      case "\r": return this.moveTo(0, this.y);
      case "\n": case "\v": case "\f": return this.lineFeed();
      case "\b": return this.moveTo(this.x - 1, this.y);
      case "\t": return this.moveTo((this.x | 7) + 1, this.y);
      case "\x0e": this.hasLineDrawing = true; return;
      case "\x0f": this.hasLineDrawing = false; return;
    }
  }

  moveTo(x, y) {
    this.x = Math.max(0, Math.min(this.columns - 1, x));
    this.y = Math.max(0, Math.min(this.rows - 1, y));
    this.isWrapDue = false;
  }

  lineFeed() {
    this.isWrapDue = false;
    if (this.y === this.bottom) this.scroll(this.top, 1);
    else if (this.y < this.rows - 1) this.y += 1;
  }

  /** Scrolls the rows from `top` to the bottom margin up, or down if `count` is negative. */
  scroll(top, count) {
    const height = this.bottom - top + 1;
    for (let times = Math.min(Math.abs(count), height); times > 0; times -= 1) {
      if (count > 0) {
        const [line] = this.lines.splice(top, 1);
        if (top === 0 && this.top === 0 && !this.isAlternate) this.remember(line);
        this.lines.splice(this.bottom, 0, this.blankLine());
      } else {
        this.lines.splice(this.bottom, 1);
        this.lines.splice(top, 0, this.blankLine());
      }
    }
  }

  erase(y, from, to) {
    for (let x = from; x < to; x += 1) this.lines[y][x] = this.blank();
  }

  sequence([, prefix, numbers, middle, final, set, name, escape]) {
    if (set === "(") this.hasLineDrawing = name === "0";
    if (escape !== undefined) return this.escape(escape);
    if (final === undefined || middle !== "") return;
    const parameters = numbers.split(/[;:]/).map((number) => Math.min(Number(number), Terminal.MAX_PARAMETER));
    if (prefix === "?" && (final === "h" || final === "l")) {
      for (const mode of parameters) this.mode(mode, final === "h");
    } else if (prefix === "") {
      this.csi(final, parameters);
    }
  }

  escape(final) {
    switch (final) {
      case "7": this.saved = { x: this.x, y: this.y, pen: this.pen }; return;
      case "8": this.pen = this.saved.pen; return this.moveTo(this.saved.x, this.saved.y);
      case "D": return this.lineFeed();
      case "E": this.x = 0; return this.lineFeed();
      case "M":
        this.isWrapDue = false;
        if (this.y === this.top) this.scroll(this.top, -1);
        else if (this.y > 0) this.y -= 1;
        return;
      case "c": return this.reset();
    }
  }

  mode(mode, isSet) {
    switch (mode) {
      case 1: this.hasCursorKeys = isSet; return;
      case 6: this.isOrigin = isSet; return this.moveTo(0, isSet ? this.top : 0);
      case 7: this.isWrapping = isSet; return;
      case 25: this.isCursorShown = isSet; return;
      case 47: case 1047: case 1049: return this.alternate(isSet);
      case 2004: this.hasBracketedPaste = isSet; return;
    }
  }

  /** Switches to the second screen, which full-screen programs use, or back. */
  alternate(isOn) {
    if (isOn === this.isAlternate) return;
    this.isAlternate = isOn;
    if (isOn) {
      this.main = { lines: this.lines, x: this.x, y: this.y, pen: this.pen };
      this.lines = this.blankLines(this.rows);
    } else {
      ({ lines: this.lines, pen: this.pen } = this.main);
      this.moveTo(this.main.x, this.main.y);
      this.main = null;
    }
    [this.top, this.bottom] = [0, this.rows - 1];
  }

  csi(final, parameters) {
    const [first, second] = parameters;
    const count = Math.max(1, first);
    const line = this.lines[this.y];
    switch (final) {
      case "A": return this.moveTo(this.x, Math.max(this.y - count, this.y >= this.top ? this.top : 0));
      case "B": case "e": return this.moveTo(this.x, Math.min(this.y + count, this.y <= this.bottom ? this.bottom : this.rows));
      case "C": case "a": return this.moveTo(this.x + count, this.y);
      case "D": return this.moveTo(this.x - count, this.y);
      case "E": return this.moveTo(0, this.y + count);
      case "F": return this.moveTo(0, this.y - count);
      case "G": case "`": return this.moveTo(count - 1, this.y);
      case "d": return this.moveTo(this.x, count - 1 + (this.isOrigin ? this.top : 0));
      case "H": case "f": return this.moveTo(Math.max(1, second || 1) - 1, count - 1 + (this.isOrigin ? this.top : 0));
      case "I": return this.moveTo((Math.floor(this.x / 8) + count) * 8, this.y);
      case "Z": return this.moveTo((Math.ceil(this.x / 8) - count) * 8, this.y);
      case "J":
        if (first === 0 || first === 2 || first === 3) {
          const above = first === 0 ? this.y + 1 : 0;
          for (let y = above; y < this.rows; y += 1) this.erase(y, 0, this.columns);
          if (first === 0) this.erase(this.y, this.x, this.columns);
          if (first === 3) this.history = [];
        } else {
          for (let y = 0; y < this.y; y += 1) this.erase(y, 0, this.columns);
          this.erase(this.y, 0, this.x + 1);
        }
        return;
      case "K": return this.erase(this.y, first === 0 ? this.x : 0, first === 1 ? this.x + 1 : this.columns);
      case "X": return this.erase(this.y, this.x, Math.min(this.columns, this.x + count));
      case "@":
        line.splice(this.x, 0, ...Array.from({ length: Math.min(count, this.columns) }, () => this.blank()));
        line.length = this.columns;
        return;
      case "P": {
        const removed = line.splice(this.x, count).length - line.splice(this.columns).length;
        line.push(...Array.from({ length: removed }, () => this.blank()));
        return;
      }
      case "L": case "M":
        if (this.y >= this.top && this.y <= this.bottom) this.scroll(this.y, final === "M" ? count : -count);
        return;
      case "S": return this.scroll(this.top, count);
      case "T": return this.scroll(this.top, -count);
      case "b": for (let times = Math.min(count, this.columns); times > 0 && this.last; times -= 1) this.put(this.last); return;
      case "c": return this.reply("\x1b[?6c");
      case "n":
        if (first === 5) this.reply("\x1b[0n");
        if (first === 6) this.reply(`\x1b[${this.y + 1};${this.x + 1}R`);
        return;
      case "h": case "l": if (first === 4) this.isInserting = final === "h"; return;
      case "r": {
        const bottom = Math.min(this.rows, second || this.rows) - 1;
        if (count - 1 < bottom) [this.top, this.bottom] = [count - 1, bottom];
        return this.moveTo(0, this.isOrigin ? this.top : 0);
      }
      case "s": return this.escape("7");
      case "u": return this.escape("8");
      case "m": return this.style(parameters);
    }
  }

  style(parameters) {
    const pen = { ...this.pen };
    for (let at = 0; at < parameters.length; at += 1) {
      const code = parameters[at];
      if (code === 0) Object.assign(pen, Terminal.PLAIN);
      else if (code === 1) pen.bold = true;
      else if (code === 2) pen.dim = true;
      else if (code === 3) pen.italic = true;
      else if (code === 4) pen.underline = true;
      else if (code === 7) pen.inverse = true;
      else if (code === 22) pen.bold = pen.dim = false;
      else if (code === 23) pen.italic = false;
      else if (code === 24) pen.underline = false;
      else if (code === 27) pen.inverse = false;
      else if (code === 39) pen.fg = null;
      else if (code === 49) pen.bg = null;
      else if (code === 38 || code === 48) {
        const isIndexed = parameters[at + 1] === 5;
        const rest = parameters.slice(at + 2, at + 5);
        pen[code === 38 ? "fg" : "bg"] = isIndexed ? Terminal.color(rest[0]) : `rgb(${rest.map(Number).join(",")})`;
        at += isIndexed ? 2 : 4;
      } else if (code >= 30 && code <= 37) pen.fg = Terminal.PALETTE[code - 30];
      else if (code >= 40 && code <= 47) pen.bg = Terminal.PALETTE[code - 40];
      else if (code >= 90 && code <= 97) pen.fg = Terminal.PALETTE[code - 82];
      else if (code >= 100 && code <= 107) pen.bg = Terminal.PALETTE[code - 92];
    }
    const isPlain = Object.keys(pen).every((key) => pen[key] === Terminal.PLAIN[key]);
    this.pen = isPlain ? Terminal.PLAIN : Object.freeze(pen);
  }

  /** A colour of the palette of 256. */
  static color(index) {
    if (index < 16) return Terminal.PALETTE[index];
    if (index >= 232) return `rgb(${[8, 8, 8].map((least) => least + (index - 232) * 10).join(",")})`;
    const level = (value) => (value === 0 ? 0 : 55 + value * 40);
    const cube = index - 16;
    return `rgb(${[Math.floor(cube / 36), Math.floor(cube / 6) % 6, cube % 6].map(level).join(",")})`;
  }

  // --- Drawing

  /** Draws the changed rows before the browser paints next. */
  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      const lines = this.isAlternate ? this.lines : [...this.history, ...this.lines];
      const cursor = this.isCursorShown ? lines.length - this.rows + this.y : -1;
      while (this.screen.children.length > lines.length) this.screen.lastChild.remove();
      lines.forEach((line, at) => {
        const row = this.screen.children[at] ?? this.screen.appendChild(document.createElement("div"));
        row.className = "row";
        const pieces = this.pieces(line, at === cursor ? this.x : -1);
        const key = JSON.stringify(pieces);
        if (row.key === key) return;
        row.key = key;
        row.replaceChildren(...pieces.map((piece) => this.piece(piece)));
      });
      if (this.isFollowing) this.element.scrollTop = this.element.scrollHeight;
    });
  }

  /** The runs of cells with one style, without the blanks at the end. */
  pieces(line, cursor) {
    const pieces = [];
    const shown = line.slice(0, this.columns);
    const end = shown.findLastIndex((cell, x) => cell.text !== " " || cell.style !== Terminal.PLAIN || x === cursor);
    shown.slice(0, end + 1).forEach((cell, x) => {
      const last = pieces.at(-1);
      const isCursor = x === cursor;
      if (last !== undefined && last.style === cell.style && !isCursor && !last.isCursor) last.text += cell.text;
      else pieces.push({ text: cell.text, style: cell.style, isCursor });
    });
    return pieces;
  }

  piece({ text, style, isCursor }) {
    const span = document.createElement("span");
    span.textContent = text;
    if (isCursor) span.className = "cursor";
    else {
      const [fg, bg] = style.inverse ? [style.bg ?? "#14181f", style.fg ?? "#d8dee8"] : [style.fg, style.bg];
      if (fg !== null) span.style.color = fg;
      if (bg !== null) span.style.background = bg;
    }
    if (style.bold) span.style.fontWeight = "bold";
    if (style.dim) span.style.opacity = 0.6;
    if (style.italic) span.style.fontStyle = "italic";
    if (style.underline) span.style.textDecoration = "underline";
    return span;
  }

  // --- Keys

  focus() {
    this.input.focus({ preventScroll: true });
  }

  listen() {
    this.element.onscroll = () => {
      const { scrollHeight, scrollTop, clientHeight } = this.element;
      this.isFollowing = scrollHeight - scrollTop - clientHeight < 40;
    };
    this.element.onmouseup = () => {
      if (getSelection().isCollapsed) this.focus();
    };
    this.input.onkeydown = (event) => {
      // The browser's own shortcuts for copy and paste.
      const isShortcut = event.ctrlKey && event.shiftKey || event.metaKey;
      if (!event.isComposing && !isShortcut && this.press(event)) event.preventDefault();
    };
    // What the keyboard of a phone or an input method enters.
    const entered = () => {
      if (this.input.value !== "") this.onInput(this.input.value.replaceAll("\n", "\r"));
      this.input.value = "";
    };
    this.input.oninput = (event) => event.isComposing || entered();
    this.input.addEventListener("compositionend", entered);
    this.input.addEventListener("beforeinput", (event) => {
      if (event.inputType === "deleteContentBackward") this.onInput("\x7f");
    });
    this.input.onpaste = (event) => {
      event.preventDefault();
      const text = event.clipboardData.getData("text").replace(/\r?\n/g, "\r");
      this.onInput(this.hasBracketedPaste ? `\x1b[200~${text}\x1b[201~` : text);
    };
  }

  /** Sends what a key stands for. Returns whether it stands for something. */
  press({ key, ctrlKey = false, altKey = false, shiftKey = false }) {
    let text = Terminal.KEYS[key];
    if (key in Terminal.CURSOR_KEYS) {
      const modifiers = 1 + shiftKey + 2 * altKey + 4 * ctrlKey;
      const start = modifiers > 1 ? `\x1b[1;${modifiers}` : this.hasCursorKeys ? "\x1bO" : "\x1b[";
      text = start + Terminal.CURSOR_KEYS[key];
    } else if (key === "Tab" && shiftKey) {
      text = "\x1b[Z";
    } else if (text === undefined && key.length === 1) {
      const code = key.toUpperCase().charCodeAt(0);
      if (ctrlKey && !altKey && code >= 64 && code < 96) text = String.fromCharCode(code & 31);
      else if (ctrlKey && !altKey && key === " ") text = "\0";
      else if (altKey && !ctrlKey) text = `\x1b${key}`;
      else text = key;
    }
    if (text === undefined) return false;
    this.isFollowing = true;
    this.draw();
    this.onInput(text);
    return true;
  }
}
