// Runs verify_cost.wasm in this Node's V8: `node --no-warnings verify_cost.mjs verify_cost.wasm`.
import { readFileSync } from 'node:fs';
import { WASI } from 'node:wasi';

const [, , path] = process.argv;
const wasi = new WASI({ version: 'preview1', args: [path], env: {} });
const module = await WebAssembly.compile(readFileSync(path));
wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
