// Plays the cells of the table of positions with pgjdbc, all in one process; in_jdbc.py writes them and reads what was seen.
// Usage: java -cp CLASSES:postgresql.jar Cells URL USER PASSWORD PREFER_QUERY_MODE PREPARE_THRESHOLD
// Standard input has a line for each step: how to send it, its values, its text, separated by tabs.
// Standard output has a line `=== step` for each, and behind that what was seen.

import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGStatement;

public class Cells {
    static Connection connection;
    static final Map<String, PreparedStatement> prepared = new HashMap<>();

    public static void main(String[] args) throws Exception {
        Properties properties = new Properties();
        properties.setProperty("user", args[1]);
        properties.setProperty("password", args[2]);
        properties.setProperty("preferQueryMode", args[3]);
        properties.setProperty("prepareThreshold", args[4]);
        connection = DriverManager.getConnection(args[0], properties);
        BufferedReader steps = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = steps.readLine(); line != null; line = steps.readLine()) {
            System.out.println("=== step");
            String[] step = line.split("\t", 3);
            try {
                play(step[0], step[1], step[2]);
            } catch (SQLException error) {
                System.out.println("ERROR " + error.getSQLState());
            }
        }
        connection.close();
    }

    static void play(String way, String values, String text) throws Exception {
        if (text.startsWith("COPY")) {
            copy(text);
        } else if (way.equals("prepared")) {
            // Kept for its second run; from prepareThreshold on it has a name for the server.
            if (!prepared.containsKey(text)) prepared.put(text, connection.prepareStatement(text));
            run(prepared.get(text), values);
            System.out.println("named: " + prepared.get(text).unwrap(PGStatement.class).isUseServerPrepare());
        } else if (!values.isEmpty()) {
            try (PreparedStatement statement = connection.prepareStatement(text)) {
                run(statement, values);
            }
        } else {
            try (Statement statement = connection.createStatement()) {
                show(statement, statement.execute(text));
            }
        }
    }

    static void run(PreparedStatement statement, String values) throws SQLException {
        int at = 0;
        if (!values.isEmpty()) for (String value : values.split(" ")) statement.setInt(++at, Integer.parseInt(value));
        show(statement, statement.execute());
    }

    static void show(Statement statement, boolean rows) throws SQLException {
        while (rows || statement.getUpdateCount() >= 0) {
            if (rows) show(statement.getResultSet());
            else System.out.println("count: " + statement.getUpdateCount());
            rows = statement.getMoreResults();
        }
    }

    static void show(ResultSet result) throws SQLException {
        ResultSetMetaData columns = result.getMetaData();
        StringBuilder line = new StringBuilder("columns:");
        for (int i = 1; i <= columns.getColumnCount(); i++) line.append(' ').append(columns.getColumnName(i)).append(' ').append(columns.getColumnTypeName(i));
        System.out.println(line);
        while (result.next()) {
            line.setLength(0);
            for (int i = 1; i <= columns.getColumnCount(); i++) line.append(result.getString(i)).append('|');
            System.out.println(line);
        }
    }

    static void copy(String text) throws Exception {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        long rows = connection.unwrap(PGConnection.class).getCopyAPI().copyOut(text, out);
        // In base64, for a COPY may have bytes of every value.
        System.out.println("copied: " + rows + " " + java.util.Base64.getEncoder().encodeToString(out.toByteArray()));
    }
}
