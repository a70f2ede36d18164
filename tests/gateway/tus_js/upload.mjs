// Uploads a file with a JavaScript client of tus, and prints its address: upload.mjs CLIENT URL KEY FILE METADATA
import { createReadStream, readFileSync } from "node:fs";
import { PassThrough } from "node:stream";
import Uppy from "@uppy/core";
import Tus from "@uppy/tus";
import tus from "tus-js-client";

const [client, url, key, file, metadata] = process.argv.slice(2);
const endpoint = `${url}/api/v1/uploads`;
const headers = { "X-API-Key": key };

// What each sends beside the defaults.
const OPTIONS = {
  plain: {},
  parallel: { parallelUploads: 3 },
  deferred: { uploadLengthDeferred: true, chunkSize: 64 * 1024 },
  creation: { uploadDataDuringCreation: true, chunkSize: 64 * 1024 },
};

function withTusJsClient(options) {
  return new Promise((resolve, reject) => {
    const fileStream = createReadStream(file);
    // A client that knows the length takes it from the file.
    const source = options.uploadLengthDeferred ? fileStream.pipe(new PassThrough()) : fileStream;
    const upload = new tus.Upload(source, {
      endpoint,
      headers,
      metadata: JSON.parse(metadata),
      retryDelays: null,
      onError: reject,
      onSuccess: () => resolve(upload.url),
      ...options,
    });
    upload.start();
  });
}

// Uppy sets a member of the browser's request object, which Node.js does not have.
class HttpStack extends tus.DefaultHttpStack {
  createRequest(method, url) {
    const request = super.createRequest(method, url);
    request.getUnderlyingObject = () => ({});
    return request;
  }
}

async function withUppy() {
  const uppy = new Uppy().use(Tus, {
    endpoint,
    headers,
    parallelUploads: 2,
    allowedMetaFields: Object.keys(JSON.parse(metadata)),
    retryDelays: [],
    storeFingerprintForResuming: false,
    httpStack: new HttpStack({}),
  });
  const data = readFileSync(file);
  uppy.addFile({ name: "photo.jpg", type: "image/jpeg", data: Object.assign(data, { size: data.length }), meta: JSON.parse(metadata) });
  const { successful, failed } = await uppy.upload();
  if (failed.length) {
    throw new Error(failed[0].error);
  }
  return successful[0].uploadURL;
}

try {
  console.log(client === "uppy" ? await withUppy() : await withTusJsClient(OPTIONS[client]));
} catch (error) {
  console.error(String(error));
  process.exit(1);
}
