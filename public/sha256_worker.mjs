// The other side of start() in sha256.mjs: bytes are added, null asks for the sum.
import { Sha256 } from './sha256.mjs';

const sum = new Sha256();

self.onmessage = ({ data }) => self.postMessage(data ? sum.update(data) : sum.digest());
