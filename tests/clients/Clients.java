import java.net.Authenticator;
import java.net.PasswordAuthentication;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** Java's HttpClient against a running issuer: java Clients.java ISSUER. */
public final class Clients {
    private static final String FORM = "grant_type=client_credentials&resource=orders";

    public static void main(String[] arguments) throws Exception {
        String issuer = arguments[0];
        // The default version asks for an upgrade to HTTP/2.
        for (HttpClient.Version version : HttpClient.Version.values()) {
            // Sends nothing until it is challenged (RFC 9110 §11.6.1).
            String right = post(version, issuer + "/token", FORM, "mss_checkout-of-the-client-tests");
            require(right.startsWith("200 ") && right.contains("access_token"), right);
            String token = right.replaceAll("(?s).*\"access_token\":\"([^\"]+)\".*", "$1");
            String active = post(version, issuer + "/introspect", "token=" + token, "mss_checkout-of-the-client-tests");
            require(active.contains("\"active\":true"), active);
            String wrong = FORM + "&client_id=checkout&client_secret=wrong";
            String refused = send(HttpClient.newBuilder().version(version).build(), issuer + "/token", wrong);
            require(refused.startsWith("401 "), refused);
        }
        System.out.println("java.net.http.HttpClient: ok");
    }

    private static String post(HttpClient.Version version, String uri, String form, String secret) throws Exception {
        Authenticator authenticator = new Authenticator() {
            @Override
            protected PasswordAuthentication getPasswordAuthentication() {
                return new PasswordAuthentication("checkout", secret.toCharArray());
            }
        };
        return send(HttpClient.newBuilder().version(version).authenticator(authenticator).build(), uri, form);
    }

    private static String send(HttpClient client, String uri, String form) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(uri))
            .header("content-type", "application/x-www-form-urlencoded")
            .POST(BodyPublishers.ofString(form)).build();
        var response = client.send(request, BodyHandlers.ofString());
        return response.statusCode() + " " + response.body();
    }

    private static void require(boolean holds, String answer) {
        if (!holds) {
            throw new AssertionError(answer);
        }
    }
}
