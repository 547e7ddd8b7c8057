// Runs the statements that come on standard input, separated by NUL, and prints one line for each: its columns and rows, the number of
// rows it changed, or its SQLSTATE.  test_bi.py says what they must be.
// Usage: java -cp CLASSES:postgresql.jar Wrapped URL USER PASSWORD READ_ONLY AUTOCOMMIT FETCH_SIZE MAX_ROWS < STATEMENTS

import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.util.ArrayList;
import java.util.List;

public class Wrapped {
    public static void main(String[] args) throws Exception {
        String[] statements = new String(System.in.readAllBytes(), StandardCharsets.UTF_8).split("\0");
        try (Connection connection = DriverManager.getConnection(args[0], args[1], args[2])) {
            connection.setReadOnly(Boolean.parseBoolean(args[3]));
            connection.setAutoCommit(Boolean.parseBoolean(args[4]));
            for (String statement : statements) {
                System.out.println(run(connection, statement, Integer.parseInt(args[5]), Integer.parseInt(args[6])).replace("\n", "\\n"));
                if (!connection.getAutoCommit()) connection.commit();
            }
        }
    }

    static String run(Connection connection, String text, int fetchSize, int maxRows) throws SQLException {
        try (Statement statement = connection.createStatement(
            ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY, ResultSet.CLOSE_CURSORS_AT_COMMIT)) {
            statement.setFetchSize(fetchSize);
            statement.setMaxRows(maxRows);
            return statement.execute(text) ? shown(statement.getResultSet()) : "changed " + statement.getUpdateCount();
        } catch (SQLException error) {
            return "failed " + error.getSQLState() + " " + error.getMessage();
        }
    }

    static String shown(ResultSet result) throws SQLException {
        ResultSetMetaData metadata = result.getMetaData();
        List<String> lines = new ArrayList<>();
        for (int i = 1; i <= metadata.getColumnCount(); i++) lines.add(metadata.getColumnLabel(i) + " " + metadata.getColumnTypeName(i));
        String head = String.join("|", lines);
        lines.clear();
        while (result.next()) {
            List<String> fields = new ArrayList<>();
            for (int i = 1; i <= metadata.getColumnCount(); i++) fields.add(String.valueOf(result.getObject(i)));
            lines.add(String.join("|", fields));
        }
        lines.sort(null);
        return head + " " + lines;
    }
}
