// The worker of start() in sha256.mjs: a message with bytes adds them, null asks for the digest.
import { Sha256 } from './sha256.mjs';

const sum = new Sha256();

self.onmessage = ({ data }) => self.postMessage(data ? sum.update(data) : sum.digest());
