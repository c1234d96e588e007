import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.concurrent.TimeUnit;
import net.schmizz.keepalive.KeepAliveProvider;
import net.schmizz.sshj.DefaultConfig;
import net.schmizz.sshj.SSHClient;
import net.schmizz.sshj.common.IOUtils;
import net.schmizz.sshj.connection.channel.direct.Parameters;
import net.schmizz.sshj.connection.channel.direct.Session;
import net.schmizz.sshj.sftp.SFTPClient;
import net.schmizz.sshj.transport.verification.PromiscuousVerifier;

/** As an IDE works: programs, files and a forward on one connection, with questions whether the server lives. */
public final class Client {
    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        String folder = arguments[1];
        DefaultConfig config = new DefaultConfig();
        config.setKeepAliveProvider(KeepAliveProvider.KEEP_ALIVE);
        try (SSHClient client = new SSHClient(config)) {
            client.addHostKeyVerifier(new PromiscuousVerifier());
            client.getConnection().getKeepAlive().setKeepAliveInterval(1);
            client.connect("127.0.0.1", port);
            client.authPassword("alice", "secret");
            System.out.println("status " + run(client, "cat >/dev/null; exit 7"));
            try (SFTPClient files = client.newSFTPClient()) {
                files.put(folder + "/worker.jar", "/data/worker.jar");
                files.rename("/data/worker.jar", "/data/worker");
                files.get("/data/worker", folder + "/back");
                System.out.println("size " + files.size("/data/worker"));
                // It becomes a daemon once it listens.
                System.out.println("status " + run(client, "httpd -p 127.0.0.1:8080 -h /data"));
                try (ServerSocket local = new ServerSocket()) {
                    String address = "127.0.0.1";
                    local.bind(new InetSocketAddress(address, 0));
                    Parameters target = new Parameters(address, local.getLocalPort(), address, 8080);
                    Thread forwarder = new Thread(() -> forward(client, target, local));
                    forwarder.setDaemon(true);
                    forwarder.start();
                    for (int number = 0; number < 5; number++) {
                        System.out.println("page " + page(local.getLocalPort()));
                        System.out.println("status " + run(client, "exit " + number));
                    }
                    // Long enough for several questions without anything else.
                    Thread.sleep(2500);
                    System.out.println("size " + files.stat("/data/worker").getSize());
                }
            }
        }
    }

    private static int run(SSHClient client, String program) throws IOException {
        try (Session session = client.startSession(); Session.Command command = session.exec(program)) {
            command.getOutputStream().close();
            IOUtils.readFully(command.getInputStream());
            command.join(20, TimeUnit.SECONDS);
            return command.getExitStatus();
        }
    }

    private static void forward(SSHClient client, Parameters target, ServerSocket local) {
        try {
            client.newLocalPortForwarder(target, local).listen();
        } catch (IOException ended) {
            // The end of the test.
        }
    }

    private static String page(int port) throws Exception {
        try (Socket socket = new Socket("127.0.0.1", port)) {
            socket.getOutputStream().write("GET /worker HTTP/1.0\r\n\r\n".getBytes(StandardCharsets.US_ASCII));
            byte[] answer = socket.getInputStream().readAllBytes();
            int start = new String(answer, StandardCharsets.ISO_8859_1).indexOf("\r\n\r\n") + 4;
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            digest.update(answer, start, answer.length - start);
            StringBuilder text = new StringBuilder();
            for (byte one : digest.digest()) {
                text.append(String.format("%02x", one));
            }
            return text.toString();
        }
    }
}
