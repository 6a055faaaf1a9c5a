/** This package's version, as package.json has it (a test holds them equal): the package can say it without reading a file. */
export const version = "0.1.0";
