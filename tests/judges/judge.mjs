// Shows how Node reads the path of a request target. `read` reads a JSON list of targets from
// standard input; `serve PORT` is an upstream.
import http from 'node:http';
import { readFileSync } from 'node:fs';

const attempt = (decode) => {
  try {
    return decode();
  } catch {
    return null;
  }
};

const readings = (target) => [
  attempt(() => decodeURIComponent(target.split('?')[0])),
  attempt(() => decodeURIComponent(new URL(target, 'http://upstream').pathname)),
];

if (process.argv[2] === 'read') {
  process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, 'utf8')).map(readings)));
} else {
  const answer = ({ url: target }, response) =>
    response.end(JSON.stringify({ target, readings: readings(target) }));
  http.createServer(answer).listen(Number(process.argv[3]), '127.0.0.1');
}
