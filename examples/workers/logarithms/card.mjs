// Punched cards: a character is a column, and a column has twelve rows: 12, 11, and 0 to 9 below them.
//
// A digit is one hole in its own row; other characters take two or three. Where there is no hole, rows 0 to 9 show
// their number, and what the card says is printed on its upper edge, as an interpreting keypunch did.
// Source: the code of the IBM 029 keypunch.

const ROWS = [12, 11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const CODE = { " ": [], ".": [12, 3, 8], "=": [6, 8], L: [11, 3], O: [11, 6], G: [12, 7] };
for (let digit = 0; digit <= 9; digit++) CODE[digit] = [digit];

const HOLE = "█";
const MARGIN = 3;

export function cardAsText(text) {
  const pad = " ".repeat(MARGIN);
  const width = text.length + 2 * MARGIN;
  const line = (content) => `│${pad}${content}${pad}│`;
  return [
    ` ╱${"─".repeat(width - 1)}┐`,
    `╱${pad}${text}${pad}│`,
    ...ROWS.map((row) => line([...text].map((character) => cell(character, row)).join(""))),
    `└${"─".repeat(width)}┘`,
    "",
  ].join("\n");
}

function cell(character, row) {
  if (CODE[character].includes(row)) return HOLE;
  return row > 9 ? " " : String(row);
}

const COLUMN = 18;
const ROW = 30;

export function cardAsSvg(text) {
  const width = (text.length + 4) * COLUMN;
  const height = (ROWS.length + 3) * ROW;
  const marks = [...text].flatMap((character, column) =>
    ROWS.map((row, index) => mark(CODE[character].includes(row), row, (column + 2.5) * COLUMN, (index + 2.5) * ROW)),
  );
  const printed = [...text].map((character, column) => letter(character, (column + 2.5) * COLUMN, 1.4 * ROW, "#333"));
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="-20 -20 ${width + 40} ${height + 40}">
<style>text { font: 15px ui-monospace, monospace; text-anchor: middle; dominant-baseline: middle }</style>
<path d="M40 0H${width - 8}q8 0 8 8V${height - 8}q0 8 -8 8H8q-8 0 -8 -8V46z" fill="#f3e3b8" stroke="#c9b27c"/>
${printed.join("")}${marks.join("")}
</svg>
`;
}

function mark(isPunched, row, x, y) {
  if (isPunched) return `<rect x="${x - 5}" y="${y - 11}" width="10" height="22" rx="1" fill="#2b2b2b"/>`;
  return row > 9 ? "" : letter(row, x, y, "#c2a76a");
}

function letter(character, x, y, colour) {
  return `<text x="${x}" y="${y}" fill="${colour}">${character}</text>`;
}
