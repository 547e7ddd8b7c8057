// What node-postgres (`pg`) sees through the proxy, as one JSON object; test_node_postgres.py says what it must be.
// Usage: NODE_PATH=FOLDER/node_modules node node_postgres.js URL

const { Client, Pool } = require("pg");
const Cursor = require("pg-cursor");

const url = process.argv[2];
const PREDICT = "PREDICT USING colours AS SELECT id, image, label FROM pictures ORDER BY id";
const BUILD =
  "BUILD MODEL by_node USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1) AS SELECT image, label FROM pictures";
const ENDLESS = "PREDICT USING colours AS SELECT image FROM pictures, generate_series(1, 1000000)";
const seen = {};

const names = (result) => result.fields.map((field) => field.name);
const types = (result) => result.fields.map((field) => field.dataTypeID);
const stateOf = (promise) => promise.then(() => "no error", (error) => error.code);

async function ordinary(client) {
  const values = [7, "Grüße 😀", "1.50", true, null, [1, null, 3]];
  const query = "SELECT $1::int4, $2::text, $3::numeric, $4::bool, $5::date, $6::int[]";
  seen.types = (await client.query({ text: query, values, rowMode: "array" })).rows[0];
  seen.several = (await client.query("SELECT 1 AS a; SELECT 2 AS b")).map((result) => result.rows[0]);

  await client.query("BEGIN");
  await client.query("CREATE TABLE node_never (a int)");
  seen.error = await stateOf(client.query("SELECT 1 / $1::int", [0]));
  seen.afterTheError = await stateOf(client.query("SELECT 1"));
  await client.query("ROLLBACK");
  seen.afterTheRollback = await stateOf(client.query("TABLE node_never"));

  const heard = new Promise((resolve) => client.once("notification", (message) => resolve([message.channel, message.payload])));
  await client.query("LISTEN node_news");
  await client.query("NOTIFY node_news, 'hello'");
  seen.heard = await heard;

  const cursor = client.query(new Cursor("SELECT generate_series(1, $1::int) AS i", [120]));
  seen.cursor = [(await cursor.read(50)).length, (await cursor.read(50)).length, (await cursor.read(50)).length];
  await cursor.close();
}

async function models(client) {
  const notices = [];
  client.on("notice", (notice) => notices.push(notice.message));
  const built = await client.query(BUILD);
  seen.buildColumns = names(built);
  seen.built = built.rows[0];
  seen.notices = notices;
  seen.dropped = (await client.query("DROP MODEL by_node")).command;
  seen.droppedTwice = await stateOf(client.query("DROP MODEL by_node"));

  const plain = await client.query({ text: PREDICT, rowMode: "array" });
  seen.columns = names(plain);
  seen.columnTypes = types(plain);
  seen.rows = plain.rows;
  seen.rowCount = plain.rowCount;

  const named = { name: "some", text: PREDICT.replace("ORDER", "WHERE label = $1 AND id < $2 ORDER"), rowMode: "array" };
  seen.named = [];
  for (const end of [4, 12, 24]) seen.named.push((await client.query({ ...named, values: ["red", end] })).rows);
  const binary = { text: named.text, values: ["red", 9], binary: true }; // as objects: in arrays pg takes binary for text
  seen.binary = (await client.query(binary)).rows.map(Object.values);

  const mixed = await client.query(`SELECT 'before'; ${PREDICT} LIMIT 2; SELECT 'after'`);
  seen.mixed = mixed.map((result) => result.rows.length);

  const cursor = client.query(new Cursor(PREDICT, [], { rowMode: "array" }));
  seen.portal = [];
  for (let rows = await cursor.read(7); rows.length; rows = await cursor.read(7)) seen.portal.push(rows);
  await cursor.close();
  const early = client.query(new Cursor(PREDICT));
  seen.closedEarly = (await early.read(2)).length;
  await early.close();

  const queued = [1, 2, 3].map((id) => client.query(PREDICT.replace("ORDER", "WHERE id = $1 ORDER"), [id]));
  seen.queued = (await Promise.all(queued)).map((result) => result.rows[0].id);
}

async function failures(client) {
  const error = await client.query("PREDICT USING nobody AS TABLE pictures").catch((caught) => caught);
  seen.unknownModel = [error.code, error.position, error.hint];
  seen.missingImage = await stateOf(client.query("PREDICT USING colours AS SELECT $1::text AS image", ["gone.png"]));
  await client.query("BEGIN");
  seen.inABlock = await stateOf(client.query("PREDICT USING nobody AS TABLE pictures"));
  seen.blockFailed = await stateOf(client.query("SELECT 1"));
  await client.query("ROLLBACK");
  await client.query("SET statement_timeout = '500ms'");
  seen.timeout = await stateOf(client.query(ENDLESS));
  await client.query("RESET statement_timeout");
  seen.usable = (await client.query("SELECT 'usable' AS it")).rows[0].it;
}

async function main() {
  const client = new Client({ connectionString: url });
  await client.connect();
  await ordinary(client);
  await models(client);
  await failures(client);
  await client.end();

  const pool = new Pool({ connectionString: url, max: 3 });
  const counts = await Promise.all(Array.from({ length: 9 }, () => pool.query(PREDICT)));
  seen.pool = counts.map((result) => result.rowCount);
  await pool.end();
  console.log(JSON.stringify(seen));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
