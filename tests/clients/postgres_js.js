// What postgres.js (`postgres`) sees through the proxy, as one JSON object; test_postgres_js.py says what it must be.
// Usage: NODE_PATH=FOLDER/node_modules node postgres_js.js URL

const postgres = require("postgres");

const ENDLESS = "PREDICT USING colours AS SELECT image FROM pictures, generate_series(1, 1000000)";
const BUILD =
  "BUILD MODEL by_postgres_js USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1) " +
  "AS SELECT image, label FROM pictures";
const seen = {};
const notices = [];
const sql = postgres(process.argv[2], { max: 1, onnotice: (notice) => notices.push(notice.message) });

const stateOf = (promise) => promise.then(() => "no error", (error) => error.code);
const values = (rows) => rows.map((row) => Object.values(row));
const predict = () => sql`PREDICT USING colours AS SELECT id, image, label FROM pictures ORDER BY id`;

async function ordinary() {
  const [row] = await sql`
    SELECT ${7}::int4 AS a, ${"Grüße 😀"}::text AS b, ${"1.50"}::numeric AS c, ${true}::bool AS d, ${null}::date AS e,
      ${[1, 3]}::int[] AS f`;
  seen.types = Object.values(row);
  seen.several = (await sql`SELECT 1 AS a; SELECT 2 AS b`.simple()).map(values);
  seen.rolledBack = await stateOf(
    sql.begin(async (transaction) => {
      await transaction`CREATE TABLE postgres_js_never (a int)`;
      await transaction`INSERT INTO postgres_js_never ${sql([{ a: 1 }, { a: 2 }])}`;
      await transaction.savepoint((savepoint) => savepoint`SELECT 1 / ${0}::int`).catch((error) => (seen.error = error.code));
      seen.inserted = (await transaction`SELECT count(*)::int AS n FROM postgres_js_never`)[0].n;
      throw Object.assign(new Error("given up"), { code: "given up" });
    }),
  );
  seen.afterTheRollback = await stateOf(sql`TABLE postgres_js_never`);

  await sql`CREATE TEMP TABLE t (a int, b text)`;
  const into = await sql`COPY t FROM STDIN`.writable();
  await new Promise((resolve, reject) => {
    into.on("finish", resolve).on("error", reject);
    into.end("1\tone\n2\ttwo\n");
  });
  let out = "";
  for await (const chunk of await sql`COPY t TO STDOUT`.readable()) out += chunk;
  seen.copied = out;

  const heard = new Promise((resolve) => sql.listen("postgres_js_news", resolve));
  await new Promise((resolve) => setTimeout(resolve, 100));
  await sql.notify("postgres_js_news", "hello");
  seen.heard = await heard;
}

async function models() {
  seen.built = { ...(await sql.unsafe(BUILD))[0] };
  seen.notices = notices;
  seen.dropped = (await sql.unsafe("DROP MODEL by_postgres_js")).command;

  const rows = await predict();
  seen.columns = rows.columns.map((column) => column.name);
  seen.columnTypes = rows.columns.map((column) => column.type);
  seen.rows = values(rows);
  seen.rowCount = rows.count;
  seen.simple = values(await predict().simple());
  seen.described = (await predict().describe()).columns.map((column) => column.name);

  seen.parameters = [];
  for (const end of [4, 12, 24]) {
    const some = await sql`
      PREDICT USING colours AS SELECT id, image, label FROM pictures WHERE label = ${"red"} AND id < ${end} ORDER BY id`;
    seen.parameters.push(values(some));
  }
  seen.portal = [];
  for await (const part of predict().cursor(7)) seen.portal.push(values(part));
  await predict().cursor(5, () => sql.CLOSE);
  seen.forEach = [];
  await predict().forEach((row) => seen.forEach.push(row.id));
  const piped = [1, 2, 3].flatMap((id) => [
    sql`SELECT ${id}::int AS id`,
    sql`PREDICT USING colours AS SELECT id, image, label FROM pictures WHERE id = ${id}`,
  ]);
  seen.piped = (await Promise.all(piped)).map((result) => result[0].id);
}

async function failures() {
  const error = await sql`PREDICT USING nobody AS TABLE pictures`.catch((caught) => caught);
  seen.unknownModel = [error.code, error.position, error.hint];
  const settled = await Promise.all([
    stateOf(sql`SELECT 1`),
    stateOf(sql`PREDICT USING colours AS SELECT ${"gone.png"}::text AS image`),
    stateOf(sql`SELECT 2`),
  ]);
  seen.amongOthers = settled;
  seen.inABlock = await stateOf(sql.begin((transaction) => transaction.unsafe("PREDICT USING nobody AS TABLE pictures")));
  const endless = sql.unsafe(ENDLESS);
  setTimeout(() => endless.cancel(), 500);
  seen.canceled = await stateOf(endless);
  // .at(-1): postgres.js counts on from the rows that came before an error.
  seen.usable = (await sql`SELECT 'usable' AS it`).at(-1).it;
}

async function main() {
  await ordinary();
  await models();
  await failures();
  await sql.end({ timeout: 5 });
  console.log(JSON.stringify(seen));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
