// node wasm_ids.cjs LIBRARY.cjs TOKENIZER.json TEXTS.json: prints the ids that the wasm tokenizers give, as JSON.
const fs = require('fs');

const [library, file, texts] = process.argv.slice(2);
const { Tokenizer } = require(library);
(async () => {
  const tokenizer = await Tokenizer.fromJSON(new Uint8Array(fs.readFileSync(file)).buffer);
  const given = JSON.parse(fs.readFileSync(texts, 'utf8'));
  console.log(JSON.stringify(given.map((text) => Array.from(tokenizer.encode(text)))));
})();
