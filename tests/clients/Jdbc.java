// What pgjdbc sees through the proxy, one `name: value` line for each observation; test_jdbc.py says what they must be.
// Usage: java -cp CLASSES:postgresql.jar Jdbc URL USER PASSWORD PREFER_QUERY_MODE

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.*;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.PGStatement;

public class Jdbc {
    static final String PREDICT = "PREDICT USING colours AS SELECT id, image, label FROM pictures";
    static Connection connection;
    static String mode;

    public static void main(String[] args) throws Exception {
        Properties properties = new Properties();
        properties.setProperty("user", args[1]);
        properties.setProperty("password", args[2]);
        properties.setProperty("preferQueryMode", args[3]);
        mode = args[3];
        connection = DriverManager.getConnection(args[0], properties);
        say("driver", connection.getMetaData().getDriverVersion());
        types();
        catalogue();
        rollbackAndSavepoint();
        batch();
        copy();
        notifications();
        timeout();
        build();
        predict();
        nested();
        if (!mode.equals("simple")) metadata(); // it describes text that still has its question marks
        prepared();
        fetchSize();
        failure();
        cancel();
        connection.close();
    }

    static void say(String name, Object value) {
        System.out.println(name + ": " + value);
    }

    /** Each row as its fields, separated by `|`. */
    static List<String> rows(ResultSet result) throws SQLException {
        List<String> rows = new ArrayList<>();
        while (result.next()) {
            List<String> fields = new ArrayList<>();
            for (int i = 1; i <= result.getMetaData().getColumnCount(); i++) fields.add(result.getString(i));
            rows.add(String.join("|", fields));
        }
        return rows;
    }

    static List<String> columns(ResultSetMetaData metadata) throws SQLException {
        List<String> columns = new ArrayList<>();
        for (int i = 1; i <= metadata.getColumnCount(); i++) columns.add(metadata.getColumnName(i) + " " + metadata.getColumnTypeName(i));
        return columns;
    }

    static List<String> ask(String text) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            return rows(statement.executeQuery(text));
        }
    }

    static String stateOf(String text) {
        try (Statement statement = connection.createStatement()) {
            statement.execute(text);
            return "no error";
        } catch (SQLException error) {
            return error.getSQLState();
        }
    }

    static void types() throws SQLException {
        String query = "SELECT ?::int8, ?::text, ?::numeric, ?::bool, ?::date, ?::int[]";
        try (PreparedStatement statement = connection.prepareStatement(query)) {
            statement.setLong(1, 7);
            statement.setString(2, "Grüße 😀");
            statement.setBigDecimal(3, new java.math.BigDecimal("1.50"));
            statement.setBoolean(4, true);
            statement.setNull(5, Types.DATE);
            statement.setArray(6, connection.createArrayOf("int4", new Integer[] {1, null, 3}));
            say("types", rows(statement.executeQuery()));
        }
    }

    static void rollbackAndSavepoint() throws SQLException {
        connection.setAutoCommit(false);
        say("create", stateOf("CREATE TABLE jdbc_never (a int)"));
        Savepoint savepoint = connection.setSavepoint();
        say("error", stateOf("SELECT 1/0"));
        say("after the error", stateOf("SELECT 1"));
        connection.rollback(savepoint);
        say("after the savepoint", ask("SELECT count(*) FROM jdbc_never"));
        connection.rollback();
        connection.setAutoCommit(true);
        say("after the rollback", stateOf("TABLE jdbc_never"));
    }

    static void batch() throws SQLException {
        ask("SELECT set_config('work_mem', '7MB', false)");
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TEMP TABLE t (a int, b text); INSERT INTO t VALUES (0, 'semi;colon')");
        }
        try (PreparedStatement statement = connection.prepareStatement("INSERT INTO t VALUES (?, ?)")) {
            for (int i = 1; i <= 300; i++) {
                statement.setInt(1, i);
                statement.setString(2, "row " + i);
                statement.addBatch();
            }
            say("batch", statement.executeBatch().length);
        }
        say("sum", ask("SELECT sum(a) FROM t"));
    }

    static void copy() throws Exception {
        var copies = connection.unwrap(PGConnection.class).getCopyAPI();
        say("copied in", copies.copyIn("COPY t FROM STDIN", new StringReader("1000\tone\n1001\t\\N\n")));
        StringWriter out = new StringWriter();
        copies.copyOut("COPY (SELECT * FROM t WHERE a >= 1000 ORDER BY a) TO STDOUT (FORMAT csv)", out);
        say("copied out", out.toString().replace("\n", ";"));
    }

    static void notifications() throws SQLException {
        stateOf("LISTEN jdbc_news");
        stateOf("NOTIFY jdbc_news, 'hello'");
        PGNotification[] heard = connection.unwrap(PGConnection.class).getNotifications(5000);
        say("heard", heard[0].getName() + " " + heard[0].getParameter());
    }

    static void timeout() throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            statement.execute("SELECT pg_sleep(30)");
        } catch (SQLException error) {
            say("timeout", error.getSQLState());
        }
        say("after the timeout", ask("SELECT 1"));
    }

    static void build() throws SQLException {
        String name = "by_jdbc_" + mode.toLowerCase();
        String build = "BUILD MODEL " + name + " USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1) "
            + "AS SELECT image, label FROM pictures";
        try (Statement statement = connection.createStatement()) {
            ResultSet result = statement.executeQuery(build);
            List<String> columns = columns(result.getMetaData());
            result.next();
            say("built", result.getString("name") + " " + result.getInt("version") + " " + result.getInt("images"));
            say("classes", List.of((String[]) result.getArray("classes").getArray()));
            say("result", columns);
            int epochs = 0;
            for (SQLWarning warning = statement.getWarnings(); warning != null; warning = warning.getNextWarning()) {
                if (warning.getMessage().contains("epoch 1")) epochs++;
            }
            say("epochs told", epochs);
        }
        say("dropped", stateOf("DROP MODEL " + name));
        say("dropped twice", stateOf("DROP MODEL " + name));
    }

    static void predict() throws SQLException {
        try (Statement statement = connection.createStatement()) {
            ResultSet result = statement.executeQuery(PREDICT + " ORDER BY id");
            say("columns", columns(result.getMetaData()));
            say("rows", rows(result));
        }
        try (Statement statement = connection.createStatement()) {
            boolean first = statement.execute("SELECT 'before'; " + PREDICT + " WHERE id < 2 ORDER BY id; SELECT 'after'");
            List<List<String>> all = new ArrayList<>();
            for (boolean more = first; more; more = statement.getMoreResults()) all.add(rows(statement.getResultSet()));
            say("several", all);
        }
    }

    /** As BI tools wrap a user's query; the named statement and the portal in parts are of a statement around a PREDICT. */
    static void nested() throws SQLException {
        String wrapped = "SELECT \"source\".* FROM (" + PREDICT + ") \"source\"";
        connection.setAutoCommit(false);
        try (PreparedStatement statement = connection.prepareStatement(wrapped + " WHERE \"id\" >= ? ORDER BY 1")) {
            List<String> all = new ArrayList<>();
            for (int i = 0; i < 7; i++) {
                statement.setFetchSize(i);
                statement.setInt(1, 18 + i);
                all.addAll(rows(statement.executeQuery()));
            }
            say("wrapped", all);
            say("wrapped columns", columns(statement.getMetaData()));
        }
        connection.commit();
        connection.setAutoCommit(true);
        try (PreparedStatement statement = connection.prepareStatement("CREATE TEMP TABLE jdbc_made AS " + PREDICT + " WHERE id < ?")) {
            statement.setInt(1, 9);
            statement.executeUpdate();
            say("made", rows(connection.createStatement().executeQuery("SELECT count(predicted) FROM jdbc_made")));
        }
    }

    static void metadata() throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(PREDICT + " WHERE label = ? AND id < ?")) {
            say("described", columns(statement.getMetaData()));
            say("parameters", statement.getParameterMetaData().getParameterTypeName(1) + " "
                + statement.getParameterMetaData().getParameterTypeName(2));
        }
    }

    static void catalogue() throws SQLException {
        List<String> columns = new ArrayList<>();
        ResultSet found = connection.getMetaData().getColumns(null, "public", "pictures", null);
        while (found.next()) columns.add(found.getString("COLUMN_NAME") + " " + found.getString("TYPE_NAME"));
        say("table", columns);
    }

    /** From its fifth execution on a statement is a named one upstream, and known types come in binary. */
    static void prepared() throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(PREDICT + " WHERE id >= ? AND id < ? ORDER BY id")) {
            List<String> all = new ArrayList<>();
            for (int i = 0; i < 8; i++) {
                statement.setInt(1, 3 * i);
                statement.setInt(2, 3 * i + 3);
                all.addAll(rows(statement.executeQuery()));
                ask("SELECT " + i);
            }
            say("prepared", all);
            say("named", statement.unwrap(PGStatement.class).isUseServerPrepare());
            statement.setInt(1, 0);
            statement.setInt(2, 1);
            ResultSet result = statement.executeQuery();
            result.next();
            say("as int", result.getInt(1));
        }
    }

    /** A portal that is suspended: only in a transaction, and only in the extended protocol. */
    static void fetchSize() throws SQLException {
        connection.setAutoCommit(false);
        try (PreparedStatement statement = connection.prepareStatement(PREDICT + " WHERE id >= ? ORDER BY id")) {
            statement.setFetchSize(5);
            statement.setInt(1, 0);
            ResultSet result = statement.executeQuery();
            List<String> all = new ArrayList<>();
            while (result.next()) {
                all.add(result.getString("id") + "|" + result.getString("image") + "|" + result.getString("label") + "|"
                    + result.getString("predicted"));
                if (all.size() == 7) ask("SELECT 'between'");
            }
            say("fetched", all);
        }
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(50);
            say("fetched ordinary", rows(statement.executeQuery("SELECT generate_series(1, 120)")).size());
            statement.setMaxRows(7);
            say("max rows ordinary", rows(statement.executeQuery("TABLE pictures")).size());
            say("max rows", rows(statement.executeQuery(PREDICT)).size());
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    static void failure() throws SQLException {
        say("unknown model", stateOf("PREDICT USING nobody AS TABLE pictures"));
        try (PreparedStatement statement = connection.prepareStatement("PREDICT USING colours AS SELECT ?::text AS image")) {
            for (String image : new String[] {"red/1.png", "gone.png", "blue/1.png"}) {
                statement.setString(1, image);
                try {
                    say("image " + image, rows(statement.executeQuery()).size());
                } catch (SQLException error) {
                    say("image " + image, error.getSQLState());
                }
            }
        }
        connection.setAutoCommit(false);
        stateOf("CREATE TABLE jdbc_never (a int)");
        say("in a block", stateOf("PREDICT USING nobody AS TABLE pictures"));
        say("block failed", stateOf("SELECT 1"));
        connection.rollback();
        connection.setAutoCommit(true);
        say("block gone", stateOf("TABLE jdbc_never"));
    }

    static void cancel() throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            statement.execute("PREDICT USING colours AS SELECT image FROM pictures, generate_series(1, 1000000)");
        } catch (SQLException error) {
            say("canceled", error.getSQLState());
        }
        say("after the cancel", ask("SELECT 1"));
    }
}
