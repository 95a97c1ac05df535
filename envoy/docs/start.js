// A file of its own: the page's content security policy allows no script inside it.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  // Sends the document to a service of theirs.
  validatorUrl: null,
});
